"""The updates themselves, as functions on tensors: APOLLO's factors, Adam's step, and how a scaled gradient enters the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import torch
from blake3 import blake3

from buildsys.tensors import counters
from buildsys.tensors.arrays import Array
from buildsys.training import loops

LIMIT = 1.01  # γ of the norm-growth limiter (Fira, arXiv 2410.01623)
_EPSILON = 1e-8  # added to a channel's norm, as in algorithm 1
_ROUNDED = 1 << 20  # weights whose float32 form is made at once


def random_key(*parts: object) -> int:
    """64 bits that name a draw: equal parts, equal numbers, on every machine."""
    return int.from_bytes(blake3(repr(parts).encode()).digest(8), "little")


def gaussian_projection(rank: int, side: int, key: tuple[object, ...]) -> torch.Tensor:
    """P, (rank, side) float32, entries i.i.d. N(0, 1/rank): a function of its key alone, so it is never stored."""
    return torch.from_numpy(counters.gaussian(random_key(*key), rank * side, 1 / math.sqrt(rank))).view(rank, side)


@dataclass(frozen=True)
class SparseSigns:
    """P, (rank, side), with one ±1 in each column: row b has signs[k] at column order[k], k from b·side/rank to (b + 1)·side/rank.

    order  (side,) int32, a permutation; signs: (side,) float32
    """

    rank: int
    order: Array
    signs: Array

    def dense(self) -> torch.Tensor:
        """(rank, side) float32, for the devices that multiply matrices faster than they gather rows."""
        side = self.order.size
        counts = numpy.diff(numpy.arange(self.rank + 1) * side // self.rank)
        matrix = torch.zeros(self.rank, side)
        matrix.numpy()[numpy.repeat(numpy.arange(self.rank), counts), self.order] = self.signs
        return matrix


def sparse_projection(rank: int, side: int, key: tuple[object, ...]) -> SparseSigns:
    """A count sketch (Charikar et al. 2002), Kane & Nelson's (2014) sparse Johnson-Lindenstrauss transform with one entry a column.

    E[PᵀP] is the identity as for N(0, 1/rank), and ‖Px‖² spreads no wider about ‖x‖²; but P·G is sums of G's rows, no product.
    The columns are dealt out evenly, which spreads less than a row drawn for each. A function of its key alone, so it is never stored.
    """
    return SparseSigns(rank, *counters.signed_permutation(random_key(*key), side))


def no_projection(side: int) -> SparseSigns:
    """The identity: nothing is compressed."""
    return SparseSigns(side, numpy.arange(side, dtype=numpy.int32), numpy.ones(side, numpy.float32))


def apollo_factors(
    compressed: torch.Tensor,
    gradient_norms: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    limited_norm: torch.Tensor,
    update: int,
    side: int,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    per_channel: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors that turn raw gradients into APOLLO's updates, U = gradient · factors, for n matrices of one shape. Steps 2 to 5, α included.

    compressed    (n, r, D) float32, R = P·G for gradients of d ≤ D: the small side is the compressed one
    gradient_norms  (n, D): of each channel of the gradient; (n, 1) of the whole of it without `per_channel`
    exp_avg, exp_avg_sq  (n, r, D) float32, written to
    limited_norm  (n,) float32, ‖U‖ of the update before, 0 if there was none
    update        1, 2, …; side: d
    per_channel   one factor a channel of the large side (APOLLO), or one a matrix (APOLLO-Mini)

    Returns (factors, limited_norm): (n, D) or (n, 1), and (n,). The bias is corrected before the limiter acts. A gradient of zeros gives an
    update of zeros and leaves the norm that limits the next one as it was. Nothing waits for the device.
    """
    correction = math.sqrt(1 - beta2**update) / (1 - beta1**update)
    added = epsilon * math.sqrt(1 - beta2**update)
    rank = compressed.shape[1]
    adapted, raw = _channel_squares(compressed, exp_avg, exp_avg_sq, beta1, beta2, added)
    if not per_channel:
        adapted, raw = adapted.sum(1, keepdim=True), raw.sum(1, keepdim=True)
    ratio = adapted.sqrt() / (raw.sqrt() + _EPSILON)
    factors = ratio * (correction * math.sqrt(side / rank))
    norm = torch.linalg.vector_norm(factors * gradient_norms, dim=1)
    ceiling = torch.where(limited_norm > 0, LIMIT * limited_norm, norm)
    limiter = torch.where(norm > ceiling, ceiling / norm, torch.ones_like(norm))
    return factors * limiter[:, None], torch.where(norm > 0, norm * limiter, limited_norm)


def _channel_squares(
    compressed: torch.Tensor, exp_avg: torch.Tensor, exp_avg_sq: torch.Tensor, beta1: float, beta2: float, added: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σ R̃², Σ R²) over the rank of every channel, (n, D) each, after the moments went on by an update."""
    if compressed.device.type == "cpu":
        found = torch.empty(2, compressed.shape[0], compressed.shape[2])
        betas = numpy.float32(beta1), numpy.float32(beta2), numpy.float32(added)
        given = zip(*loops.arrays(compressed, exp_avg, exp_avg_sq, found[0], found[1]), strict=True)
        loops.by_channels(loops.channel_squares, [(*one, *betas) for one in given], compressed.shape[2])
        return found[0], found[1]
    exp_avg.lerp_(compressed, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(compressed, compressed, value=1 - beta2)
    adapted = exp_avg_sq.sqrt().add_(added)
    torch.div(exp_avg, adapted, out=adapted)
    return adapted.square_().sum(1), compressed.square().sum(1)


def gathered_gradients(
    gradients: Sequence[torch.Tensor], projections: Sequence[SparseSigns], tall: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(R = P·G with the small side compressed, norm of each channel) of n gradients of one shape, on a CPU.

    gradients  (m, n) each, float32; tall: the rows are the channels
    Returns (n, r, large side) and (n, large side).
    """
    large = max(gradients[0].shape)
    compressed, norms = torch.empty(len(gradients), projections[0].rank, large), torch.empty(len(gradients), large)
    given = zip(gradients, projections, *loops.arrays(compressed, norms), strict=True)
    gathered = [(*loops.arrays(gradient.contiguous()), own.order, own.signs, out, norm) for gradient, own, out, norm in given]
    loops.by_channels(loops.gather_rows if tall else loops.gather_columns, gathered, large)
    return compressed, norms


def multiplied_gradients(
    gradients: Sequence[torch.Tensor], projections: Sequence[torch.Tensor], tall: bool, per_channel: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `gathered_gradients` with dense projections (r, small side), on any device; without `per_channel` norms are (n, 1)."""
    large, rank, device = max(gradients[0].shape), projections[0].shape[0], gradients[0].device
    compressed = torch.empty(len(gradients), rank, large, device=device)
    norms = torch.empty(len(gradients), large if per_channel else 1, device=device)
    if device.type == "cpu" and rank == 1 and not per_channel:
        read: Any = loops.project_rows if tall else loops.project_columns
        given = zip(gradients, projections, *loops.arrays(compressed, norms), strict=True)
        numbers = [(*loops.arrays(gradient.contiguous(), own[0]), out[0], norm) for gradient, own, out, norm in given]
        loops.side_by_side([partial(read, *one) for one in numbers])
        return compressed, norms
    for position, (gradient, projection) in enumerate(zip(gradients, projections, strict=True)):
        wide = gradient.T if tall else gradient  # a view
        torch.mm(projection, wide, out=compressed[position])
        norms[position] = torch.linalg.vector_norm(wide, dim=0 if per_channel else None)
    return compressed, norms


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


def add_scaled(weights: torch.Tensor, gradient: torch.Tensor, factors: torch.Tensor, scale: float, kept: float, key: int) -> None:
    """weights ← kept · weights + scale · factors · gradient, in place; 16-bit weights are rounded stochastically.

    weights, gradient  (m, n); factors broadcast to them, float32
    key                of the rounding: the same key rounds the same way
    """
    if weights.dtype == torch.float32:
        if kept != 1.0:
            weights.mul_(kept)
        weights.addcmul_(gradient.float(), factors, value=scale)
        return
    rows = max(1, _ROUNDED // max(1, weights[0].numel()))
    for part, start in enumerate(range(0, weights.shape[0], rows)):
        inside = slice(start, start + rows)
        own = factors[inside] if factors.shape[0] > 1 else factors
        moved = weights[inside].float().mul_(kept).addcmul_(gradient[inside].float(), own, value=scale)
        weights[inside] = _rounded(moved, weights.dtype, (key + part) % 2**64)


def _rounded(numbers: torch.Tensor, dtype: torch.dtype, key: int) -> torch.Tensor:
    """float32 -> bfloat16, up or down with the probability that keeps the mean: small steps are not lost. float16 to nearest."""
    if dtype != torch.bfloat16:
        return numbers.to(dtype)
    if numbers.device.type == "cpu":
        flat = torch.empty(numbers.numel(), dtype=torch.uint16)
        counters.stochastically_rounded(numbers.contiguous().view(-1).numpy(), key, flat.numpy())
        return flat.view(torch.bfloat16).view(numbers.shape)
    generator = torch.Generator(numbers.device).manual_seed(key >> 1)
    noise = torch.randint(1 << 16, numbers.shape, generator=generator, device=numbers.device, dtype=torch.int32)
    return ((numbers.view(torch.int32) + noise) & -65536).view(torch.float32).bfloat16()
