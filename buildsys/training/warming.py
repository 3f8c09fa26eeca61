"""Where a training begins: at the base, or where examples in the context point, with its first updates damped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, TrainerCallback

from buildsys.training.apollo import Apollo
from buildsys.training.bridge import Jump

if TYPE_CHECKING:
    from buildsys.rules.train import Params


class Damping(TrainerCallback):
    """The learning rate of update t times 1 − β1^t: the first updates of a warm start would otherwise undo it at full size."""

    def __init__(self, beta1: float) -> None:
        self._beta1 = beta1

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        for group in optimizer.param_groups:  # the schedule sets it anew for every update
            group["lr"] *= 1 - self._beta1 ** (state.global_step + 1)


@torch.no_grad()
def warmed(params: Params, found: Jump, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> list[TrainerCallback]:
    """Let a jump enter where the recipe says; returns what damps the first updates, nothing for a cold start."""
    assert params.warm_start is not None
    if not found.deltas:
        return []
    into = params.warm_start.into
    if into in ("weights", "both"):
        parameters = dict(model.named_parameters())
        for name, delta in found.deltas.items():
            parameters[name].add_(delta.to(parameters[name].dtype))
    if into in ("moments", "both"):
        assert isinstance(optimizer, Apollo)
        optimizer.begin_from(found.deltas, spread=into == "moments")
    return [Damping(params.adam_beta1)]


def cosine(found: Jump, model: PreTrainedModel, before: Mapping[str, torch.Tensor]) -> float:
    """Between ΔW and τ of the matrices that the jump is about."""
    taus = {name: parameter.detach().float() - before[name].float() for name, parameter in model.named_parameters() if name in found.deltas}
    product = sum(float((found.deltas[name] * tau).sum()) for name, tau in taus.items())
    sizes = [math.sqrt(sum(float(tensor.square().sum()) for tensor in side.values())) for side in (found.deltas, taus)]
    return round(product / max(1e-12, sizes[0] * sizes[1]), 4)
