"""The vectors of one tensor, as a merge method sees them: read piece by piece, on all cores, and asked for thresholds and angles.

Nothing here grows with the size of a tensor or of the model; what is kept for each vector is a tile in each thread.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy
from blake3 import blake3

from buildsys.merging import kernels
from buildsys.tensors import arrays
from buildsys.tensors.arrays import Array
from buildsys.tensors.checkpoints import Entry
from buildsys.tensors.vectors import Piece, Tau

TILE = 1 << 16  # entries that a core works on at a time
_TILES = 4  # a task's
_SMALL = 1 << 16  # a tensor that is sorted rather than counted
By = Literal["tensor", "row", "column"]


@dataclass(frozen=True)
class Tile:
    """start   of its first entry in the tensor
    size    entries
    base    (size,) float32
    taus    (n, tile) float32, of which `size` entries are meant; may be written to
    """

    start: int
    size: int
    base: Array
    taus: Array


@dataclass(frozen=True)
class Given:
    """An array in memory, as a vector's tensor."""

    array: Array
    short: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    def read(self, piece: Piece, out: Array) -> None:
        out[:] = self.array.reshape(-1)[piece.start : piece.stop]


@dataclass
class Pool:
    """Threads, each with buffers that it uses again and again: a page that is touched for the first time costs more than the sum in it."""

    threads: int
    _executor: ThreadPoolExecutor = field(init=False)
    _own: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        self._executor = ThreadPoolExecutor(self.threads)

    def submit(self, function: Callable[..., Any], *given: Any) -> Any:
        return self._executor.submit(function, *given)

    def buffer(self, name: str, shape: tuple[int, ...], dtype: Any = numpy.float32) -> Array:
        """This thread's array of a name, at least as large as asked for, of unknown content."""
        known: dict[str, Array] = self._own.__dict__
        size = math.prod(shape)
        found = known.get(name)
        if found is None or found.size < size or found.dtype != dtype:
            found = known[name] = numpy.empty(size, dtype)
        return found[:size].reshape(shape)

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


class Deltas:
    """coefficients  (n,) float32, signed, none 0: α; a negative one takes its vector away
    vectors       (n,) what names each vector for ever: its digest
    in_model      for a threshold over the whole model: density -> (n,) float32
    """

    def __init__(
        self,
        name: str,
        base: Entry | Array,
        taus: Sequence[Tau | None],
        coefficients: Sequence[float],
        vectors: Sequence[str],
        pool: Pool,
        in_model: Callable[[float], Array] | None = None,
    ) -> None:
        self.name, self.taus, self.pool, self.vectors = name, list(taus), pool, list(vectors)
        self.coefficients = numpy.array(coefficients, numpy.float32)
        self.in_model = in_model
        self._entry = base.resolved() if isinstance(base, Entry) else None
        if isinstance(base, Entry):
            self.dtype, self.raw = base.dtype, arrays.raw(base.resolved())
        else:
            self.dtype, self.raw = "F32", base.reshape(-1)
        self.shape: tuple[int, ...] = base.shape
        self.count = self.raw.size
        self.n = len(self.taus)
        self.width = self.count // self.shape[0] if len(self.shape) > 1 and self.shape[0] else max(1, self.count)

    # reading

    def pieces(self, whole_rows: bool = False) -> list[tuple[int, int]]:
        """(start, stop) of every task, none of which depends on the number of threads."""
        step = self._tile(whole_rows) * _TILES
        return [(start, min(start + step, self.count)) for start in range(0, self.count, step)]

    def _tile(self, whole_rows: bool) -> int:
        if self.width <= TILE:
            return TILE // self.width * self.width
        return self.width if whole_rows else TILE

    def tiles(self, start: int, stop: int, whole_rows: bool = False) -> Iterator[Tile]:
        """The tiles of a piece, in this thread's buffers."""
        step = self._tile(whole_rows)
        base32, taus = self.pool.buffer("base", (step,)), self.pool.buffer("taus", (self.n, step))
        for first in range(start, stop, step):
            size = min(step, stop - first)
            base = base32[:size]
            arrays.decode(self.dtype, self.raw[first : first + size], base)
            piece = Piece(first, first + size, self._entry, base)
            for tau, out in zip(self.taus, taus, strict=True):
                if tau is None:
                    out[:size] = 0
                else:
                    tau.read(piece, out[:size])
            yield Tile(first, size, base, taus)

    def each(self, function: Callable[[int, int], Any], whole_rows: bool = False) -> list[Any]:
        """function(start, stop) for every piece, on all threads; results in order."""
        futures = [self.pool.submit(function, *piece) for piece in self.pieces(whole_rows)]
        return [future.result() for future in futures]

    def matrix(self, position: int) -> Array:
        """α·τ of one vector, whole, in the tensor's shape, float32."""
        out = numpy.empty(self.count, numpy.float32)
        tau = self.taus[position]
        if tau is None:
            out[:] = 0
        else:
            for start, stop in self.pieces():
                part = out[start:stop]
                tau.read(Piece(start, stop), part)
                kernels.scale(part, self.coefficients[position])
        return out.reshape(self.shape)

    def key(self, position: int, seed: int) -> numpy.uint64:
        """Of the random numbers for one vector in this tensor: no order, thread or device enters."""
        text = f"{seed}\0{self.name}\0{self.vectors[position]}".encode()
        return numpy.uint64(int.from_bytes(blake3(text).digest(8), "little"))

    # thresholds

    def kept(self, density: float) -> Array:
        """(n,) the magnitude of the last entry that each vector keeps of this tensor."""
        return self._own([kept_number(self.count, density)])[:, 0]

    def band(self, density: float, gamma: float) -> tuple[Array, Array]:
        """(lowest, highest) magnitude that each vector keeps when the ⌊γ·n⌋ largest go and ⌊density·n⌋ stay below them."""
        top = math.floor(gamma * self.count + 1e-9)
        last = min(self.count, top + kept_number(self.count, density))
        found = self._own([min(top + 1, self.count), last])
        return found[:, 1], found[:, 0]

    def kept_jointly(self, density: float) -> numpy.float32:
        """The magnitude of the last α·τ that all vectors keep together."""
        ranks = [[kept_number(self.count * self.n, density)]]
        return numpy.float32(select([self], 1, _weighted, lambda _: ranks, short=False)[0, 0])

    def least_variance(self, share: float) -> numpy.float32:
        """The variance of the last entry kept, of those whose variance is not 0. One that keeps nothing where all are 0."""

        def ranks(histograms: Array) -> list[list[int]]:
            return [[kept_number(max(1, int(histograms[0].sum() - histograms[0][0])), share)]]

        found = numpy.float32(select([self], 1, _varying, ranks, short=False)[0, 0])
        return max(found, numpy.finfo(numpy.float32).smallest_subnormal)

    def _own(self, ranks: list[int]) -> Array:
        return select([self], self.n, own_magnitudes, lambda _: [ranks] * self.n, short=all(t is None or t.short for t in self.taus))

    # angles

    def inner_products(self, by: By = "tensor") -> Array:
        """(parts, n + 1, n + 1) float64: of base and τ₁ … τₙ, signed, over the tensor, over each row, or over each column."""
        width = self.width if by != "tensor" else max(1, self.count)
        parts = {"tensor": 1, "row": self.count // width, "column": width}[by]

        def piece(start: int, stop: int) -> tuple[int, Array]:
            first = 0 if by == "column" else start // width
            last = width - 1 if by == "column" else (stop - 1) // width
            found = numpy.zeros((last - first + 1, self.n + 1, self.n + 1))
            for tile in self.tiles(start, stop, by == "column"):
                together = self.pool.buffer("together", (self.n + 1, tile.size))
                together[0], together[1:] = tile.base, tile.taus[:, : tile.size]
                if by == "column":
                    kernels.column_products(together.reshape(self.n + 1, -1, width), found)
                else:
                    kernels.inner_products(together, tile.start, width, first, found)
            return first, found

        total = numpy.zeros((parts, self.n + 1, self.n + 1))
        for first, found in self.each(piece, by == "column"):
            total[first : first + len(found)] += found
        signs = numpy.concatenate([[1.0], numpy.sign(self.coefficients)])
        signed: Array = total * signs[:, None] * signs[None, :]
        return signed


def kept_number(count: int, density: float) -> int:
    """⌊density · count⌋, at least 1; the margin undoes the binary rounding of products such as 0.29 · 100."""
    return max(1, math.floor(density * count + 1e-9))


Feed = Callable[[Deltas, Tile], Array]
"""(groups, tile) float32: the numbers of each group, of which the tile's size are meant."""


def own_magnitudes(deltas: Deltas, tile: Tile) -> Array:
    """Each vector's τ."""
    return tile.taus


def _weighted(deltas: Deltas, tile: Tile) -> Array:
    """All α·τ in one group."""
    out = deltas.pool.buffer("weighted", (deltas.n * tile.size,))
    for position in range(deltas.n):
        kernels.weigh(
            tile.taus[position, : tile.size], deltas.coefficients[position], out[position * tile.size : (position + 1) * tile.size]
        )
    return out.reshape(1, -1)


def _varying(deltas: Deltas, tile: Tile) -> Array:
    """The variance of α·τ over the vectors, one group."""
    out = deltas.pool.buffer("variances", (tile.size,))
    kernels.variances(tile.taus, tile.size, deltas.coefficients, out)
    return out.reshape(1, -1)


def select(tensors: Sequence[Deltas], groups: int, feed: Feed, ranks: Callable[[Array], Sequence[Sequence[int]]], *, short: bool) -> Array:
    """(groups, ranks) float32: for each group of numbers the magnitude of its r-th largest, exactly; 0 beyond its numbers.

    feed   (tensor, tile) -> the groups' numbers
    ranks  histogram of the groups' magnitudes -> for each group the ranks asked for, from 1
    short  the lower half of every number's bits is 0

    One pass counts the upper halves of the magnitudes' bits, a second the lower halves inside the bins that were asked for.
    """
    if len(tensors) == 1 and tensors[0].count <= _SMALL:
        return _sorted_out(tensors[0], groups, feed, ranks)
    upper = numpy.zeros((groups, kernels.UPPER), numpy.int64)
    for deltas in tensors:
        for own in _counted(deltas, feed, (groups, 2, kernels.UPPER), kernels.count_each_upper):
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
            bin_ = kernels.UPPER - 1 - at
            found[group, place] = bin_ << 16
            inside.append((group, place, bin_, rank - (int(from_top[at - 1]) if at else 0)))
    if short or not inside:
        return found.view(numpy.float32)
    bins = sorted({(group, bin_) for group, _, bin_, _ in inside})

    def lower_halves(bits: Array, size: int, counts: Array) -> None:
        for at, (group, bin_) in enumerate(bins):
            kernels.count_lower(bits[group, :size], numpy.uint32(bin_), counts[at])

    lower = numpy.zeros((len(bins), kernels.LOWER), numpy.int64)
    for deltas in tensors:
        for own in _counted(deltas, feed, (len(bins), kernels.LOWER), lower_halves):
            lower += own
    for group, place, bin_, rank in inside:
        from_top = numpy.cumsum(lower[bins.index((group, bin_)), ::-1])
        found[group, place] |= kernels.LOWER - 1 - int(numpy.searchsorted(from_top, rank))
    return found.view(numpy.float32)


def _counted(deltas: Deltas, feed: Feed, shape: tuple[int, ...], count: Callable[[Array, int, Array], None]) -> list[Array]:
    """The histograms of each thread; their sum depends on no order."""
    own: dict[int, Array] = {}

    def piece(start: int, stop: int) -> None:
        counts = own.get(threading.get_ident())
        if counts is None:
            counts = own[threading.get_ident()] = numpy.zeros(shape, numpy.uint32)
        for tile in deltas.tiles(start, stop):
            numbers = feed(deltas, tile)
            count(numbers.view(numpy.uint32), _meant(numbers, tile), counts)

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
            return [numpy.sort(numpy.abs(group)) for group in numbers[:, : _meant(numbers, tile)]]
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
