"""Parameters of the `train` rule -> the optimiser over a model's trainable tensors. Owns the choice, not the updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from buildsys.training.apollo import Apollo

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from buildsys.rules.train import Params


def make(params: Params, model: PreTrainedModel) -> torch.optim.Optimizer:
    """The optimiser that the parameters name, over everything that is not frozen."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    betas = (params.adam_beta1, params.adam_beta2)
    common: dict[str, Any] = {"lr": params.learning_rate, "betas": betas, "eps": params.adam_epsilon, "weight_decay": params.weight_decay}
    if params.optimizer == "adamw":
        return torch.optim.AdamW([parameter for _, parameter in named], fused=True, **common)
    return Apollo(
        named,
        rank=params.rank,
        mini=params.optimizer == "apollo-mini",
        update_proj_gap=params.update_proj_gap,
        seed=params.seed,
        **common,
    )
