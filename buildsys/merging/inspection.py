"""What is inside a vector, and how the vectors of a merge lie to each other: norms, angles, conflicts. Measures; writes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy

from buildsys.machine import cores
from buildsys.merging import processor
from buildsys.merging.deltas import Deltas, Pool
from buildsys.merging.entries import Entrywise
from buildsys.merging.stream import Merge
from buildsys.tensors.arrays import Array
from buildsys.tensors.vectors import Vector

DROPPING = ("ties", "dare", "della", "breadcrumbs", "sce")  # methods that drop entries of a vector
MISMATCH = 3.0  # a ratio of norms from which the larger vector drowns the smaller
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


def vector(folder: Path) -> dict[str, Any]:
    """Norm of τ, overall, by layer, and of the ten tensors that moved most; each with its share of the whole."""
    found = Vector(folder)
    pool = Pool(cores())
    squares: dict[str, float] = {}
    for name in sorted(found.taus):
        nothing = numpy.broadcast_to(numpy.float32(0), found.taus[name].shape)
        deltas = Deltas(name, nothing, [found.taus[name]], [1.0], [""], pool)
        squares[name] = _total(deltas)[0] if deltas.count else 0.0
    pool.close()
    whole = sum(squares.values())
    layers: dict[str, float] = {}
    for name, square in squares.items():
        at = _LAYER.search(name)
        label = f"layer {at[1]}" if at else name
        layers[label] = layers.get(label, 0.0) + square
    order = sorted(layers, key=lambda label: (not label.startswith("layer "), _number(label), label))
    moved = sorted(squares, key=lambda name: (-squares[name], name))[:10]
    return {
        "norm": whole**0.5,
        "layers": {label: {"norm": layers[label] ** 0.5, "share": _share(layers[label], whole)} for label in order},
        "moved_most": {name: {"norm": squares[name] ** 0.5, "share": _share(squares[name], whole)} for name in moved if squares[name]},
    }


def merge(work: Merge, labels: list[str]) -> dict[str, Any]:
    """Of α·τ, by the recipe's own coefficients.

    norms      (n,) of τ, and of α·τ
    cosines    (n, n)
    conflicts  (n, n) share of the entries which both vectors move, where they pull in opposite directions
    trimmed    (n,) share of the entries that each vector moves, and the method drops
    worst_pair the two with the lowest cosine; where there are two vectors
    opposed    share of the entries that anybody keeps, where both signs are kept
    """
    n = len(labels)
    products, plain = numpy.zeros((n, n)), numpy.zeros(n)
    both, against = numpy.zeros((n, n), numpy.int64), numpy.zeros((n, n), numpy.int64)
    kept, decided = numpy.zeros(n, numpy.int64), numpy.zeros(2, numpy.int64)
    for name in work.base.names:
        deltas = work.deltas(name)
        if deltas is None or not deltas.count:
            continue
        taking = work.taking(name)
        at = numpy.ix_(taking, taking)
        alphas = numpy.abs(deltas.coefficients.astype(numpy.float64))
        inner = deltas.inner_products()[0][1:, 1:]
        products[at] += inner * alphas[:, None] * alphas[None, :]
        plain[taking] += numpy.diagonal(inner)
        rule = work.method(deltas) if work.recipe.method in DROPPING else None
        own = _counts(deltas, rule if isinstance(rule, Entrywise) else Entrywise())
        both[at] += own[0]
        against[at] += own[1]
        kept[taking] += own[2]
        decided += own[3]
    norms = numpy.sqrt(numpy.diagonal(products))
    moved = numpy.diagonal(both)
    moving = norms[norms > 0]
    cosines = (products / numpy.where(norms > 0, norms, 1)[:, None] / numpy.where(norms > 0, norms, 1)[None, :]).tolist()
    conflicts = (against / numpy.maximum(both, 1)).tolist()
    pairs = [(cosines[one][other], -conflicts[one][other], one, other) for one in range(n) for other in range(one)]
    worst = {}
    if pairs:
        cosine, conflict, one, other = min(pairs)
        worst = {"worst_pair": {"vectors": [labels[other], labels[one]], "cosine": cosine, "conflict": -conflict}}
    return worst | {
        "vectors": labels,
        "norms": numpy.sqrt(plain).tolist(),
        "scaled_norms": norms.tolist(),
        "mismatch": float(moving.max() / moving.min()) if moving.size else 1.0,
        "cosines": cosines,
        "conflicts": conflicts,
        "trimmed": (1 - kept / numpy.maximum(moved, 1)).tolist(),
        "opposed": _share(float(decided[1]), float(decided[0])),
    }


def _counts(deltas: Deltas, rule: Entrywise) -> tuple[Array, Array, Array, Array]:
    n = deltas.n

    def piece(start: int, stop: int) -> tuple[Array, Array, Array, Array]:
        both, against = numpy.zeros((n, n), numpy.int64), numpy.zeros((n, n), numpy.int64)
        kept, decided = numpy.zeros(n, numpy.int64), numpy.zeros(2, numpy.int64)
        for tile in deltas.tiles(start, stop, rule.whole_rows):
            processor.oppositions(tile.taus, tile.size, deltas.coefficients, both, against)
            rule.prepared(deltas, tile)
            lows, highs, *_ = rule.constants(deltas)
            processor.decisions(tile.taus, tile.size, deltas.coefficients, lows, highs, rule.joint, kept, decided)
        return both, against, kept, decided

    parts = deltas.each(piece, rule.whole_rows)
    return tuple(sum(part[at] for part in parts) for at in range(4))


def _total(deltas: Deltas) -> list[float]:
    """Σ τ² of each vector."""

    def piece(start: int, stop: int) -> list[float]:
        found = [0.0] * deltas.n
        for tile in deltas.tiles(start, stop):
            for position, tau in enumerate(tile.taus[:, : tile.size]):
                found[position] += deltas.pool.place.dot(tau, tau)
        return found

    return [float(total) for total in numpy.sum(deltas.each(piece), axis=0)]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _number(label: str) -> int:
    return int(label.removeprefix("layer ")) if label.startswith("layer ") else 0
