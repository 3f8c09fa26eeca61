"""The merge methods: what each of them is and takes. A new method is a new function here; how it is computed is one module further.

A method takes the deltas of one tensor, signed and with their coefficients (a negative coefficient has flipped its delta, and only |α|
weighs), and keyword-only options, each annotated with what it accepts; those are its options in a Buildfile. It returns the rule by which
the entries of the merged delta follow, float32 and in the tensor's shape. A vector whose coefficient is 0 in a tensor takes no part there;
an empty tensor gives an empty one. A plan reads the options, so nothing heavy is imported before a method is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from buildsys.merging.ranges import Elect, Mean, count, finite, fraction, positive, share

if TYPE_CHECKING:
    from buildsys.merging.deltas import Deltas
    from buildsys.merging.entries import Rule


def linear(deltas: Deltas, *, normalize: bool = True) -> Rule:
    """The weighted average of the models: Σ α·τ / Σ |α|. Wortsman et al. 2022 (model soups), arXiv 2203.05482.

    normalize  False: the weighted sum

    The base is no model of the average. Refused where all coefficients are 0.
    """
    from buildsys.merging import sparsified

    return sparsified.linear(deltas, normalize)


def slerp(deltas: Deltas, *, lerp_above: Annotated[float, share] = 0.9995) -> Rule:
    """On the great circle from the base's weights to the tuned model's; the coefficient is t. Shoemake 1985.

    lerp_above  |cosine| above which the straight line is taken, which then differs by less than float32 shows

    One vector. t = 0 is the base, t = 1 the tuned model. A tensor that is 0 on either side is interpolated on the line.
    """
    from buildsys.merging import angular

    return angular.slerp(deltas, lerp_above)


def nuslerp(deltas: Deltas, *, flatten: bool = True, row_wise: bool = False, scale: Annotated[float, finite] = 1.0) -> Rule:
    """On the great circle from one delta to another, at t = |α₂| / (|α₁| + |α₂|); added to the base. mergekit's NuSLERP.

    flatten   True: one angle for a tensor. False: one for each row of a matrix, or for each column with
    row_wise  (mergekit's name: the norm runs over the rows)
    scale     λ on the result

    Two vectors. Colinear deltas are interpolated on the line.
    """
    from buildsys.merging import angular

    return angular.nuslerp(deltas, flatten, row_wise, scale)


def task_arithmetic(deltas: Deltas, *, scale: Annotated[float, finite] = 1.0) -> Rule:
    """λ · Σ α·τ. Ilharco et al. 2022, arXiv 2212.04089, section 2.

    scale  λ
    """
    from buildsys.merging import sparsified

    return sparsified.task_arithmetic(deltas, scale)


def ties(
    deltas: Deltas,
    *,
    density: Annotated[float, fraction] = 0.2,
    trim: Literal["tensor", "joint", "model"] = "tensor",
    elect: Literal["mass", "count"] = "mass",
    mean: Literal["count", "coefficient", "sum"] = "count",
    scale: Annotated[float, finite] = 1.0,
) -> Rule:
    """Trim, elect a sign per entry, average the deltas that agree. Yadav et al. 2023, arXiv 2306.01708, algorithm 1.

    density  share of each delta kept, largest magnitude first; ties of magnitude all stay
    trim     threshold of one vector in this tensor | of all |α·τ| of this tensor together | of one vector in the whole model
    elect    sign of Σ α·τ | majority of signs; a zero sum elects nothing
    mean     Σ α·τ over those that agree, divided by their number | by the sum of their |α| | as it is
    scale    λ on the result

    An entry that nobody agrees on is 0.
    """
    from buildsys.merging import sparsified

    return sparsified.ties(deltas, density, trim, elect, mean, scale)


def dare(
    deltas: Deltas,
    *,
    density: Annotated[float, fraction] = 0.5,
    elect: Elect = "none",
    mean: Mean = "sum",
    rescale: bool = True,
    seed: Annotated[int, count] = 1,
    scale: Annotated[float, finite] = 1.0,
) -> Rule:
    """Drop entries by chance, divide the rest by the density, add. Yu et al. 2023, arXiv 2311.03099, equation 1.

    density  probability with which an entry of a delta is kept: 1 − p of the paper
    elect    none, or a sign per entry as `ties` elects it (DARE before TIES)
    mean     of those that agree, or of all without election: their sum | divided by their number | by the sum of their |α|
    rescale  False: the kept entries stay as they are
    seed     of the masks; they depend on seed, tensor name and vector alone
    scale    λ on the result
    """
    from buildsys.merging import sparsified

    return sparsified.dare(deltas, density, elect, mean, rescale, seed, scale)


def della(
    deltas: Deltas,
    *,
    density: Annotated[float, fraction] = 0.5,
    epsilon: Annotated[float, share] = 0.2,
    elect: Elect = "mass",
    mean: Mean = "count",
    rescale: bool = True,
    seed: Annotated[int, count] = 1,
    scale: Annotated[float, finite] = 1.0,
) -> Rule:
    """Drop small entries of a row more often than large ones, rescale, elect, average. Deep et al. 2024, arXiv 2406.11617 (MAGPRUNE).

    density  mean probability with which an entry is kept
    epsilon  between the probabilities of a row's smallest and its largest magnitude: density ∓ ε/2, by rank; equal magnitudes
             share theirs. A tensor of one dimension is one row. ε/2 is less than density and at most 1 − density
    rescale  an entry is divided by its own probability
    The others as in `dare`.
    """
    from buildsys.merging import sparsified

    return sparsified.della(deltas, density, epsilon, elect, mean, rescale, seed, scale)


def breadcrumbs(
    deltas: Deltas,
    *,
    density: Annotated[float, fraction] = 0.9,
    gamma: Annotated[float, share] = 0.01,
    elect: Elect = "none",
    mean: Mean = "sum",
    scale: Annotated[float, finite] = 1.0,
) -> Rule:
    """Drop the outliers and the small entries of each delta, add. Davari & Belilovsky 2023, arXiv 2312.06795, section 3.

    density  share of a delta kept
    gamma    share dropped from the top: ⌊γ·n⌋ entries, none where that is 0; what density leaves over goes from the bottom. Entries
             as large as the first or last one kept stay with it
    The others as in `dare`.
    """
    from buildsys.merging import sparsified

    return sparsified.breadcrumbs(deltas, density, gamma, elect, mean, scale)


def model_stock(deltas: Deltas, *, filter_wise: bool = False, scale: Annotated[float, finite] = 1.0) -> Rule:
    """t · mean of α·τ, where t = n·cos θ / (1 + (n − 1)·cos θ) cos θ the mean cosine of two deltas. Jang et al. 2024, arXiv 2403.19522.

    filter_wise  an angle for each row, instead of one for the tensor
    scale        λ on the result

    One vector is itself. A delta of norm 0 is orthogonal to all; where the deltas cancel (1 + (n − 1)·cos θ = 0) the base stays.
    """
    from buildsys.merging import angular

    return angular.model_stock(deltas, filter_wise, scale)


def sce(deltas: Deltas, *, density: Annotated[float, fraction] = 0.1, scale: Annotated[float, finite] = 1.0) -> Rule:
    """Select, calculate, erase. Wan et al. 2024 (FuseChat-3), arXiv 2408.07990, section 3.3.

    density  share of the entries kept, of those whose variance over the vectors is not 0: the largest variance first
    scale    λ on the result

    Each α·τ then weighs by its share of Σ (α·τ)² over what was selected; entries that oppose the elected sign are erased, and the rest is
    averaged by weight. One vector is kept as it is; vectors that agree everywhere have no variance, and give 0.
    """
    from buildsys.merging import sparsified

    return sparsified.sce(deltas, density, scale)


def karcher(
    deltas: Deltas, *, max_iter: Annotated[int, count] = 10, tol: Annotated[float, positive] = 1e-5, scale: Annotated[float, finite] = 1.0
) -> Rule:
    """The Karcher mean of the models' directions on the sphere, times the weighted mean of their norms. Grove & Karcher 1973.

    max_iter  steps of the fixed-point iteration
    tol       tangent norm below which it stops
    scale     λ on what the mean differs from the base by

    A model weighs by its share of Σ |α|; the base is none of them. One model is itself. Models of norm 0 take no part.
    """
    from buildsys.merging import angular

    return angular.karcher(deltas, max_iter, tol, scale)


def iso_c(deltas: Deltas, *, scale: Annotated[float, finite] = 1.0) -> Rule:
    """Σ α·τ with all its singular values replaced by their mean. Marczak et al. 2025, arXiv 2502.04959, algorithm 1.

    scale  λ on the result

    The mean runs over the directions that there are: a sum of rank r keeps rank r.
    """
    from buildsys.merging import spectral

    return spectral.iso_c(deltas, scale)


def tsv_m(deltas: Deltas, *, scale: Annotated[float, finite] = 1.0) -> Rule:
    """The top 1/n of each α·τ's singular directions, side by side, made orthogonal. Gargiulo et al. 2024, arXiv 2412.00081, algorithm 1.

    scale  λ on the result

    Each vector keeps ⌊min(rows, columns)/n⌋ directions, at least one. One vector is itself.
    """
    from buildsys.merging import spectral

    return spectral.tsv_m(deltas, scale)


def wudi(
    deltas: Deltas,
    *,
    steps: Annotated[int, count] = 300,
    learning_rate: Annotated[float, positive] = 1e-5,
    scale: Annotated[float, finite] = 1.0,
) -> Rule:
    """From Σ α·τ, Adam on Σᵢ ‖(M − τᵢ)·τᵢᵀ‖² / ‖τᵢ‖²: M disturbs no vector in its own row space.

    Cheng et al. 2025, arXiv 2503.08099.

    steps, learning_rate  of Adam; the defaults are the paper's
    scale                 λ on the result

    The loss needs the vectors through two sums only, A = Σ τᵢᵀτᵢ/‖τᵢ‖² and B = Σ τᵢ·τᵢᵀτᵢ/‖τᵢ‖²: its gradient is 2·(M·A − B).
    One vector is itself.
    """
    from buildsys.merging import spectral

    return spectral.wudi(deltas, steps, learning_rate, scale)


METHODS: dict[str, Callable[..., Any]] = {
    method.__name__: method
    for method in (
        linear, slerp, nuslerp, task_arithmetic, ties, dare, della, breadcrumbs, model_stock, sce, karcher, iso_c, tsv_m, wudi,
    )
}  # fmt: skip
VECTORS_TAKEN = {"slerp": 1, "nuslerp": 2}
NORMALIZED = ("linear", "nuslerp", "karcher")  # divide by the sum of |α|: all of them 0 means nothing
SPECTRAL = ("iso_c", "tsv_m", "wudi")  # through torch
