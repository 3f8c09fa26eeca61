"""How the methods that look at one entry at a time find their rule: thresholds, shares, masks. What each is: `methods`."""

from __future__ import annotations

from typing import Literal

import numpy

from buildsys.merging import thresholds
from buildsys.merging.deltas import Deltas
from buildsys.merging.entries import Drawn, Entrywise
from buildsys.merging.ranges import Elect, Mean


def task_arithmetic(deltas: Deltas, scale: float) -> Entrywise:
    return Entrywise(scale=scale)


def linear(deltas: Deltas, normalize: bool) -> Entrywise:
    return Entrywise(mean="coefficient" if normalize else "sum")


def ties(
    deltas: Deltas,
    density: float,
    trim: Literal["tensor", "joint", "model"],
    elect: Literal["mass", "count"],
    mean: Mean,
    scale: float,
) -> Entrywise:
    if trim == "joint":
        lows = numpy.full(deltas.n, thresholds.kept_jointly(deltas, density), numpy.float32)
    elif trim == "model":
        assert deltas.in_model is not None
        lows = deltas.in_model(density)
    else:
        lows = thresholds.kept(deltas, density)
    return Entrywise(lows=lows, joint=trim == "joint", elect=elect, mean=mean, scale=scale)


def dare(deltas: Deltas, density: float, elect: Elect, mean: Mean, rescale: bool, seed: int, scale: float) -> Entrywise:
    return Entrywise(drawn=Drawn(density, None, rescale, seed), elect=elect, mean=mean, scale=scale)


def della(deltas: Deltas, density: float, epsilon: float, elect: Elect, mean: Mean, rescale: bool, seed: int, scale: float) -> Entrywise:
    return Entrywise(drawn=Drawn(density, epsilon, rescale, seed), elect=elect, mean=mean, scale=scale)


def breadcrumbs(deltas: Deltas, density: float, gamma: float, elect: Elect, mean: Mean, scale: float) -> Entrywise:
    lows, highs = thresholds.band(deltas, density, gamma)
    return Entrywise(lows=lows, highs=highs, elect=elect, mean=mean, scale=scale)


def sce(deltas: Deltas, density: float, scale: float) -> Entrywise:
    if deltas.n == 1:
        return Entrywise(scale=scale)
    least = thresholds.least_variance(deltas, density) if density < 1 else None

    def piece(start: int, stop: int) -> list[float]:
        found = [0.0] * deltas.n
        for tile in deltas.tiles(start, stop):
            Entrywise(least=least).prepared(deltas, tile)
            for position, tau in enumerate(tile.taus[:, : tile.size]):
                found[position] += deltas.pool.place.dot(tau, tau)
        return found

    squares = numpy.sum(deltas.each(piece), axis=0) * deltas.coefficients.astype(numpy.float64) ** 2
    total = squares.sum()
    shares = squares / total if total else numpy.full(deltas.n, 1 / deltas.n)
    return Entrywise(least=least, elect="mass", shares=shares.astype(numpy.float32), scale=scale)
