"""Merge methods: pure functions from the deltas of one tensor to the merged delta. A new method is a new function here.

A method takes (deltas, coefficients) and keyword-only options, each annotated with what it accepts; those are its options in a Buildfile.
Deltas have come signed: a negative coefficient has flipped its delta, and only |α| arrives. torch is imported inside, because a plan
reads the options without it. A method whose option needs the whole model (trim = "model") takes thresholds found beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Range:
    """The numbers that an option accepts."""

    low: float
    high: float
    low_included: bool = True

    def __contains__(self, value: float) -> bool:
        return (value >= self.low if self.low_included else value > self.low) and value <= self.high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return "a finite number" if math.isinf(self.low) else f"a number from {self.low:g}"
        return f"a number in {'[' if self.low_included else '('}{self.low:g}, {self.high:g}]"


fraction = Range(0, 1, low_included=False)
finite = Range(-math.inf, math.inf)


def task_arithmetic(deltas: torch.Tensor, coefficients: torch.Tensor, *, scale: Annotated[float, finite] = 1.0) -> torch.Tensor:
    """λ · Σ α·τ. Ilharco et al. 2022, arXiv 2212.04089, section 2.

    deltas        (n, *shape), any float; accumulated in float32
    coefficients  (n,), ≥ 0
    scale         λ

    Returns (*shape) float32; no deltas that differ from 0 give 0.
    """
    return _weighted(deltas, coefficients).sum(0).mul_(scale)


def ties(
    deltas: torch.Tensor,
    coefficients: torch.Tensor,
    *,
    density: Annotated[float, fraction] = 0.2,
    trim: Literal["tensor", "joint", "model"] = "tensor",
    elect: Literal["mass", "count"] = "mass",
    mean: Literal["count", "coefficient"] = "count",
    scale: Annotated[float, finite] = 1.0,
    thresholds: Sequence[float] | None = None,
) -> torch.Tensor:
    """Trim, elect a sign per entry, average the deltas that agree. Yadav et al. 2023, arXiv 2306.01708, algorithm 1.

    deltas        (n, *shape), any float; accumulated in float32
    coefficients  (n,), ≥ 0; a negative coefficient has already flipped its delta
    density       share of each delta kept, largest magnitude first; ties of magnitude all stay
    trim          threshold of one vector in this tensor | of all |α·τ| of this tensor together | of one vector in the whole model
    elect         sign of Σ α·τ | majority of signs; a zero sum elects nothing
    mean          Σ α·τ over those that agree, divided by their number | by the sum of their α
    scale         λ on the result
    thresholds    (n,) smallest magnitude that each vector keeps; with trim = "model" only

    Returns (*shape) float32; an entry that nobody agrees on is 0.
    """
    import torch

    if trim == "joint":
        weighted = _weighted(deltas, coefficients)
        weighted[weighted.abs() < kept_from(weighted, density)] = 0
    else:
        deltas = deltas.float()
        if trim == "tensor":
            thresholds = [kept_from(delta, density) for delta in deltas]
        if thresholds is None:
            raise ValueError('trim = "model" needs the thresholds of the whole model')
        floor = torch.tensor(thresholds, dtype=torch.float32).view(-1, *[1] * (deltas.dim() - 1))
        weighted = _weighted(deltas.where(deltas.abs() >= floor, torch.zeros(())), coefficients)
    sign = (weighted if elect == "mass" else weighted.sign()).sum(0).sign()
    agrees = (weighted.sign() == sign) & (sign != 0)
    total = weighted.mul_(agrees).sum(0)
    counted = agrees.float() if mean == "count" else _weighted(agrees.float(), coefficients)
    divisor = counted.sum(0)
    return total.div_(divisor + (divisor == 0)).mul_(scale)  # 0/1 where nobody agrees


def kept_from(magnitudes: torch.Tensor, density: float) -> float:
    """The magnitude of the last entry kept: the ⌊density·n⌋-th largest, at least one; 0 for an empty tensor."""
    count = magnitudes.numel()
    if not count:
        return 0.0
    kept = kept_number(count, density)
    return float(magnitudes.abs().flatten().kthvalue(count - kept + 1).values)


def kept_number(count: int, density: float) -> int:
    """⌊density · count⌋, at least 1; the margin undoes the binary rounding of products such as 0.29 · 100."""
    return max(1, math.floor(density * count + 1e-9))


def _weighted(deltas: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """α·τ as a new float32 tensor."""
    return deltas.float() * coefficients.float().view(-1, *[1] * (deltas.dim() - 1))


METHODS = {"task_arithmetic": task_arithmetic, "ties": ties}
