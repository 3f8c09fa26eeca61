"""APOLLO and APOLLO-Mini (Zhu et al. 2024, arXiv 2412.05270, algorithm 1): a pure update, and the thin state around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from blake3 import blake3

LIMIT = 1.01  # γ of the norm-growth limiter (Fira, arXiv 2410.01623)
_EPSILON = 1e-8  # added to a channel's norm, as in algorithm 1


def gaussian_projection(rank: int, side: int, key: tuple[object, ...]) -> torch.Tensor:
    """P, (rank, side) float32, entries i.i.d. N(0, 1/rank): a function of its key alone, so it is never stored."""
    seed = int.from_bytes(blake3(repr(key).encode()).digest(7), "big")
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, side, generator=generator).div_(math.sqrt(rank))


def apollo_update(
    gradient: torch.Tensor,
    projection: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    limited_norm: torch.Tensor,
    update: int,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    per_channel: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors that turn the raw gradient into APOLLO's update: U = gradient · factors. Steps 1 to 5, α included.

    gradient      (d, D) with d ≤ D, float32: the small side first
    projection    (r, d)
    exp_avg, exp_avg_sq  (r, D) float32, written to
    limited_norm  () float32, ‖U‖ of the update before, 0 if there was none
    update        1, 2, …
    per_channel   one factor a column (APOLLO), or one for the matrix (APOLLO-Mini)

    Returns (factors, limited_norm): (D,) or (1,), and (). The bias is corrected before the limiter acts. A gradient of zeros gives an
    update of zeros and leaves the norm that limits the next one as it was. Nothing waits for the device.
    """
    compressed = projection @ gradient
    exp_avg.lerp_(compressed, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(compressed, compressed, value=1 - beta2)
    correction = math.sqrt(1 - beta2**update) / (1 - beta1**update)
    adapted = exp_avg / (exp_avg_sq.sqrt() + epsilon * math.sqrt(1 - beta2**update))
    dim = 0 if per_channel else None
    ratio = torch.linalg.vector_norm(adapted, dim=dim) / (torch.linalg.vector_norm(compressed, dim=dim) + _EPSILON)
    rank, side = projection.shape
    factors = ratio.reshape(-1) * (correction * math.sqrt(side / rank))
    norm = torch.linalg.vector_norm(factors * torch.linalg.vector_norm(gradient, dim=0))
    ceiling = torch.where(limited_norm > 0, LIMIT * limited_norm, norm)
    limiter = torch.where(norm > ceiling, ceiling / norm, torch.ones_like(norm))
    return factors * limiter, torch.where(norm > 0, norm * limiter, limited_norm)


def adamw_update(
    gradient: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    update: int,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> torch.Tensor:
    """Adam's update (Kingma & Ba 2015) of a tensor that has no second side to compress: gains, biases. float32."""
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    root = (exp_avg_sq / (1 - beta2**update)).sqrt_()
    return exp_avg / (1 - beta1**update) / root.add_(epsilon)


class Apollo(torch.optim.Optimizer):
    """APOLLO for matrices, Adam for what is no matrix; weight decay is decoupled.

    named            (name, parameter) pairs: a tensor's projections depend on its name
    rank             at most the small side of each matrix; 1 with `mini`
    update_proj_gap  updates for which one projection stays
    seed             of the projections

    The state of an (m, n) matrix is 2 · rank · max(m, n) numbers and two scalars.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, torch.nn.Parameter]],
        *,
        lr: float,
        rank: int,
        mini: bool = False,
        update_proj_gap: int = 200,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        pairs = list(named)
        self.names = [name for name, _ in pairs]
        self.rank, self.mini, self.update_proj_gap, self.seed = 1 if mini else rank, mini, update_proj_gap, seed
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__([{"params": [parameter for _, parameter in pairs]}], defaults)
        self._projections: dict[str, tuple[int, torch.Tensor]] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        for name, parameter in zip(self.names, group["params"], strict=True):
            if parameter.grad is not None:
                self._step_one(name, parameter, group)
        return loss

    def _step_one(self, name: str, parameter: torch.nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        gradient = parameter.grad.float()  # type: ignore[union-attr]
        matrix = parameter.dim() == 2
        tall = matrix and parameter.shape[0] > parameter.shape[1]
        if tall:
            gradient = gradient.T  # a view: the small side first
        if not state:
            shape = (min(self.rank, gradient.shape[0]), gradient.shape[1]) if matrix else tuple(gradient.shape)
            state["step"] = torch.tensor(0)
            state["exp_avg"] = gradient.new_zeros(shape)
            state["exp_avg_sq"] = gradient.new_zeros(shape)
            if matrix:
                state["limited_norm"] = gradient.new_zeros(())
        state["step"] += 1
        update, learning_rate = int(state["step"]), group["lr"]
        betas = {"beta1": group["betas"][0], "beta2": group["betas"][1], "epsilon": group["eps"]}
        if group["weight_decay"]:
            parameter.mul_(1 - learning_rate * group["weight_decay"])
        if not matrix:
            moved = adamw_update(gradient, state["exp_avg"], state["exp_avg_sq"], update, **betas)
            parameter.add_(moved.to(parameter.dtype), alpha=-learning_rate)
            return
        projection = self._projection(name, state["exp_avg"].shape[0], gradient, update)
        factors, state["limited_norm"] = apollo_update(
            gradient, projection, state["exp_avg"], state["exp_avg_sq"], state["limited_norm"], update,
            per_channel=not self.mini, **betas,
        )  # fmt: skip
        factors = factors[:, None] if tall else factors
        parameter.addcmul_(parameter.grad, factors.to(parameter.dtype), value=-learning_rate)  # type: ignore[arg-type]

    def _projection(self, name: str, rank: int, gradient: torch.Tensor, update: int) -> torch.Tensor:
        epoch = (update - 1) // self.update_proj_gap
        known = self._projections.get(name)
        if known is None or known[0] != epoch:
            drawn = gaussian_projection(rank, gradient.shape[0], (self.seed, name, epoch))
            known = self._projections[name] = epoch, drawn.to(gradient.device)
        return known[1]
