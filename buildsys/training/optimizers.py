"""Parameters of the `train` rule -> the optimiser over a model's trainable tensors. Owns the choice, not the updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from buildsys.errors import BuildError
from buildsys.training.apollo import Apollo
from buildsys.training.fit import adamw

if TYPE_CHECKING:
    from buildsys.rules.train import Params


def make(params: Params, named: Sequence[tuple[str, torch.nn.Parameter]]) -> torch.optim.Optimizer:
    """The optimiser that the parameters name. Raises BuildError where no matrix is among what is trained."""
    if not any(parameter.dim() == 2 for _, parameter in named):
        facts = [("tensors to train", str(len(named))), ("matrices among them", "0")]
        raise BuildError("the model has no matrix to train", facts, "set train_embeddings = true, or take another base")
    if params.optimizer == "adamw":
        return adamw(named, params)
    return Apollo(
        named,
        lr=params.learning_rate,
        rank=params.rank,
        mini=params.optimizer == "apollo-mini",
        update_proj_gap=params.update_proj_gap,
        betas=(params.adam_beta1, params.adam_beta2),
        eps=params.adam_epsilon,
        weight_decay=params.weight_decay,
        seed=params.seed,
    )


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What it keeps between updates."""
    if isinstance(optimizer, Apollo):
        return optimizer.state_bytes()
    return sum(tensor.numel() * tensor.element_size() for state in optimizer.state.values() for tensor in state.values())
