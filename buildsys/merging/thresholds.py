"""The magnitude from which a vector's entries are kept: exact order statistics of a tensor or a model, by counting bits, not by sorting."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

import numpy

from buildsys.merging import fused, processor
from buildsys.merging.deltas import Deltas, Tile
from buildsys.tensors.arrays import Array

_SMALL = 1 << 16  # a tensor that is sorted rather than counted


def kept(deltas: Deltas, density: float) -> Array:
    """(n,) the magnitude of the last entry that each vector keeps of this tensor."""
    return _own(deltas, [kept_number(deltas.count, density)])[:, 0]


def band(deltas: Deltas, density: float, gamma: float) -> tuple[Array, Array]:
    """(lowest, highest) magnitude that each vector keeps when the ⌊γ·n⌋ largest go and ⌊density·n⌋ stay below them."""
    top = math.floor(gamma * deltas.count + 1e-9)
    last = min(deltas.count, top + kept_number(deltas.count, density))
    found = _own(deltas, [min(top + 1, deltas.count), last])
    return found[:, 1], found[:, 0]


def kept_jointly(deltas: Deltas, density: float) -> numpy.float32:
    """The magnitude of the last α·τ that all vectors keep together."""
    ranks = [[kept_number(deltas.count * deltas.n, density)]]
    return numpy.float32(select([deltas], 1, _weighted, lambda _: ranks, short=False)[0, 0])


def kept_in_model(tensors: Sequence[Deltas], density: float) -> Array:
    """(n,) the magnitude of each vector's ⌊density·total⌋-th largest entry over all tensors. Entries that a vector lacks are zeros."""
    wanted = [[kept_number(sum(deltas.count for deltas in tensors), density)]] * tensors[0].n
    return select(tensors, tensors[0].n, _own_magnitudes, lambda _: wanted, short=all(map(_short, tensors)))[:, 0]


def least_variance(deltas: Deltas, share: float) -> numpy.float32:
    """The variance of the last entry kept, of those whose variance is not 0. One that keeps nothing where all are 0."""

    def ranks(histograms: Array) -> list[list[int]]:
        return [[kept_number(max(1, int(histograms[0].sum() - histograms[0][0])), share)]]

    found = numpy.float32(select([deltas], 1, _varying, ranks, short=False)[0, 0])
    return max(found, numpy.finfo(numpy.float32).smallest_subnormal)


def _own(deltas: Deltas, ranks: list[int]) -> Array:
    return select([deltas], deltas.n, _own_magnitudes, lambda _: [ranks] * deltas.n, short=_short(deltas))


def _short(deltas: Deltas) -> bool:
    return all(tau is None or tau.short for tau in deltas.taus)


def kept_number(count: int, density: float) -> int:
    """⌊density · count⌋, at least 1; the margin undoes the binary rounding of products such as 0.29 · 100."""
    return max(1, math.floor(density * count + 1e-9))


Feed = Callable[[Deltas, Tile], Array]
"""(groups, tile) float32: the numbers of each group, of which the tile's size are meant."""


def _own_magnitudes(deltas: Deltas, tile: Tile) -> Array:
    """Each vector's τ."""
    return tile.taus


def _weighted(deltas: Deltas, tile: Tile) -> Array:
    """All α·τ in one group."""
    out = deltas.pool.buffer("weighted", (deltas.n * tile.size,))
    for position in range(deltas.n):
        deltas.pool.place.weigh(
            tile.taus[position, : tile.size], deltas.coefficients[position], out[position * tile.size : (position + 1) * tile.size]
        )
    together: Array = out.reshape(1, -1)
    return together


def _varying(deltas: Deltas, tile: Tile) -> Array:
    """The variance of α·τ over the vectors, one group."""
    out = deltas.pool.buffer("variances", (tile.size,))
    deltas.pool.place.variances(tile.taus, tile.size, deltas.coefficients, out)
    together: Array = out.reshape(1, -1)
    return together


def select(tensors: Sequence[Deltas], groups: int, feed: Feed, ranks: Callable[[Array], Sequence[Sequence[int]]], *, short: bool) -> Array:
    """(groups, ranks) float32: for each group of numbers the magnitude of its r-th largest, exactly; 0 beyond its numbers.

    feed   (tensor, tile) -> the groups' numbers
    ranks  histogram of the groups' magnitudes -> for each group the ranks asked for, from 1
    short  the lower half of every number's bits is 0

    One pass counts the upper halves of the magnitudes' bits, a second the lower halves inside the bins that were asked for.
    """
    if len(tensors) == 1 and tensors[0].count <= min(_SMALL, tensors[0].pool.place.TILE):
        return _sorted_out(tensors[0], groups, feed, ranks)
    upper = numpy.zeros((groups, processor.UPPER), numpy.int64)
    for deltas in tensors:
        for own in _counted(deltas, feed, (groups, 2, processor.UPPER), deltas.pool.place.count_each_upper):
            upper += own.sum(1, dtype=numpy.int64)
    wanted = ranks(upper)
    found = numpy.zeros((groups, max(map(len, wanted))), numpy.uint32)
    inside: list[tuple[int, int, int, int]] = []  # group, place, bin, rank inside the bin
    for group, places in enumerate(wanted):
        from_top = numpy.cumsum(upper[group, ::-1])
        for place, rank in enumerate(places):
            if rank > from_top[-1]:
                continue
            at = int(numpy.searchsorted(from_top, rank))
            bin_ = processor.UPPER - 1 - at
            found[group, place] = bin_ << 16
            inside.append((group, place, bin_, rank - (int(from_top[at - 1]) if at else 0)))
    if short or not inside:
        return found.view(numpy.float32)
    bins = sorted({(group, bin_) for group, _, bin_, _ in inside})

    working = tensors[0].pool.place

    def lower_halves(numbers: Array, size: int, counts: Array) -> None:
        for at, (group, bin_) in enumerate(bins):
            working.count_lower(numbers[group, :size], bin_, counts[at])

    lower = numpy.zeros((len(bins), processor.LOWER), numpy.int64)
    for deltas in tensors:
        for own in _counted(deltas, feed, (len(bins), processor.LOWER), lower_halves):
            lower += own
    for group, place, bin_, rank in inside:
        from_top = numpy.cumsum(lower[bins.index((group, bin_)), ::-1])
        found[group, place] |= processor.LOWER - 1 - int(numpy.searchsorted(from_top, rank))
    return found.view(numpy.float32)


def _counted(deltas: Deltas, feed: Feed, shape: tuple[int, ...], count: Callable[[Array, int, Array], None]) -> list[Array]:
    """The histograms of each thread; their sum depends on no order."""
    own: dict[int, Array] = {}
    one_call = feed is _own_magnitudes and count == deltas.pool.place.count_each_upper and fused.fits(deltas)

    def piece(start: int, stop: int) -> None:
        counts = own.get(threading.get_ident())
        if counts is None:
            counts = own[threading.get_ident()] = numpy.zeros(shape, numpy.uint32)
        if one_call:
            fused.count(deltas, start, stop, counts)
            return
        for tile in deltas.tiles(start, stop):
            numbers = feed(deltas, tile)
            count(numbers, _meant(numbers, tile), counts)

    deltas.each(piece)
    return list(own.values())


def _meant(numbers: Array, tile: Tile) -> int:
    """How many of each group's numbers belong to the tile: all but those of the taus' own buffer."""
    return tile.size if numbers is tile.taus else numbers.shape[1]


def _sorted_out(deltas: Deltas, groups: int, feed: Feed, ranks: Callable[[Array], Sequence[Sequence[int]]]) -> Array:
    """The same for a tensor of one tile."""

    def magnitudes() -> list[Array]:
        for tile in deltas.tiles(0, deltas.count):
            numbers = feed(deltas, tile)
            return list(deltas.pool.place.magnitudes(numbers[:, : _meant(numbers, tile)]))
        return [numpy.zeros(0, numpy.float32)] * groups

    ordered = deltas.pool.submit(magnitudes).result()
    bins = numpy.zeros((groups, 2), numpy.int64)
    bins[:, 0] = [int((numbers == 0).sum()) for numbers in ordered]
    bins[:, 1] = [len(numbers) for numbers in ordered] - bins[:, 0]
    wanted = ranks(bins)
    found = numpy.zeros((groups, max(map(len, wanted))), numpy.float32)
    for group, places in enumerate(wanted):
        for place, rank in enumerate(places):
            if 1 <= rank <= len(ordered[group]):
                found[group, place] = ordered[group][len(ordered[group]) - rank]
    return found
