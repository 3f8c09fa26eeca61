"""How the methods that look at matrices whole find their delta: by singular values, through torch, on a GPU where there is one.

Only matrices that map activations are treated so; embeddings, heads, gains and biases get the mean of their α·τ, as in the papers' code.
Decompositions go through the smaller Gram matrix, in float64: a singular value below 10⁻⁷ of the largest counts as none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from buildsys.merging.deltas import Deltas
from buildsys.merging.entries import Entrywise, Rule, Whole
from buildsys.tensors.arrays import Array
from buildsys.tensors.matching import by_token

if TYPE_CHECKING:
    import torch

_NONE = 1e-14  # a squared singular value over the largest


def iso_c(deltas: Deltas, scale: float) -> Rule:
    if not _is_map(deltas):
        return _mean(deltas, scale)
    left, values, right = thin_svd(_sum(deltas))
    return _whole((left * (values.mean() * scale)) @ right) if values.numel() else _mean(deltas, scale)


def tsv_m(deltas: Deltas, scale: float) -> Rule:
    if not _is_map(deltas):
        return _mean(deltas, scale)
    import torch

    kept = max(1, min(deltas.shape) // deltas.n)
    parts = [thin_svd(_matrix(deltas, position), kept) for position in range(deltas.n)]
    left = _orthogonal(torch.cat([part[0] for part in parts], 1))
    right = _orthogonal(torch.cat([part[2] for part in parts], 0).T).T
    return _whole((left * (torch.cat([part[1] for part in parts]) * scale)) @ right)


def wudi(deltas: Deltas, steps: int, learning_rate: float, scale: float) -> Rule:
    if not _is_map(deltas):
        return _mean(deltas, scale)
    import torch

    weighing, target, merged = _zeros(deltas, deltas.width, deltas.width), _zeros(deltas, *deltas.shape), _zeros(deltas, *deltas.shape)
    for position in range(deltas.n):
        tau = _matrix(deltas, position).float()
        square = float(tau.double().square().sum())
        gram = tau.T @ tau / square if square else weighing * 0
        weighing += gram
        target += tau @ gram
        merged += tau
    first, second = torch.zeros_like(merged), torch.zeros_like(merged)
    for step in range(1, steps + 1):
        gradient = (merged @ weighing).sub_(target).mul_(2)
        first.lerp_(gradient, 0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        merged -= learning_rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt_().add_(1e-8))
    return _whole(merged * scale)


def calibrated(deltas: Deltas, merged: Array, alpha: float) -> Array:
    """`svc`: shrink those singular values of a merged delta that count shared directions more than once. Li et al. 2026, arXiv 2602.05536.

    merged  (rows, columns) float32, of any method; anything that is no map of activations comes back as it is
    alpha   1 only shrinks; the smaller, the more are directions that the merge has weakened drawn up again

    With u_r, σ_r, v_r of the merged delta: s = ⟨σ_r·v_r, u_rᵀ·ατᵢ⟩ / ‖u_rᵀ·ατᵢ‖² says how often direction r counts what vector i has there;
    σ_r is multiplied by n / Σᵢ max(alpha, s).
    """
    if not _is_map(deltas) or not merged.any():
        return merged
    import torch

    left, values, right = thin_svd(torch.from_numpy(merged).to(_device(deltas)).double())
    counted = torch.zeros_like(values)
    for position in range(deltas.n):
        response = left.T @ _matrix(deltas, position)
        own = response.square().sum(1)
        met = values * (response * right).sum(1)
        counted += torch.where(own > 0, met / torch.where(own > 0, own, torch.ones_like(own)), torch.zeros_like(own)).clamp_min(alpha)
    found = (left * (values * deltas.n / counted)) @ right
    return found.float().cpu().numpy()


def _is_map(deltas: Deltas) -> bool:
    return len(deltas.shape) == 2 and min(deltas.shape) > 1 and not by_token(deltas.name)


def _mean(deltas: Deltas, scale: float) -> Entrywise:
    return Entrywise(mean="count", scale=scale)


def _matrix(deltas: Deltas, position: int) -> torch.Tensor:
    """α·τ in float64."""
    import torch

    return torch.from_numpy(deltas.matrix(position)).to(_device(deltas)).double()


def _sum(deltas: Deltas) -> torch.Tensor:
    total = _matrix(deltas, 0)
    for position in range(1, deltas.n):
        total += _matrix(deltas, position)
    return total


def _zeros(deltas: Deltas, rows: int, columns: int) -> torch.Tensor:
    import torch

    return torch.zeros(rows, columns, device=_device(deltas))


def _device(deltas: Deltas) -> torch.device:
    import torch

    found: torch.device = getattr(deltas.pool.place, "device", None) or torch.device("cpu")
    return found


def thin_svd(matrix: torch.Tensor, at_most: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(left (rows, r), values (r,), right (r, columns)), largest first, of the directions that there are."""
    import torch

    wide = matrix.shape[0] < matrix.shape[1]
    tall = matrix.T if wide else matrix
    squares, vectors = torch.linalg.eigh(tall.T @ tall)
    squares, vectors = squares.flip(0), vectors.flip(1)
    there = int((squares > squares[0] * _NONE).sum()) if squares[0] > 0 else 0
    kept = min(there, at_most or there)
    values, right = squares[:kept].sqrt(), vectors[:, :kept]
    left = tall @ right / values
    return (right, values, left.T) if wide else (left, values, right.T)


def _orthogonal(columns: torch.Tensor) -> torch.Tensor:
    """The orthonormal matrix nearest to one of more rows than columns: its polar factor."""
    import torch

    squares, vectors = torch.linalg.eigh(columns.T @ columns)
    there = squares > squares[-1] * _NONE if len(squares) else squares > 0
    inverse = torch.where(there, squares.clamp_min(1e-300).rsqrt(), torch.zeros_like(squares))
    nearest: torch.Tensor = columns @ ((vectors * inverse) @ vectors.T)
    return nearest


def _whole(matrix: torch.Tensor) -> Whole:
    return Whole(numpy.ascontiguousarray(matrix.float().cpu().numpy()))
