"""The vectors of one tensor, as a merge method sees them: read piece by piece, on all cores, and asked for thresholds and angles.

Nothing here grows with the size of a tensor or of the model; what is kept for each vector is a tile in each thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy
from blake3 import blake3

from buildsys.merging import processor
from buildsys.tensors import arrays
from buildsys.tensors.arrays import Array
from buildsys.tensors.checkpoints import Entry
from buildsys.tensors.vectors import Piece, Tau

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
    """Threads, each with buffers that it uses again and again: a page that is touched for the first time costs more than the sum in it.

    place  where they work: `processor`, or an Accelerator with the same names
    """

    threads: int
    place: Any = processor  # or an Accelerator
    _executor: ThreadPoolExecutor = field(init=False)
    _own: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        self._executor = ThreadPoolExecutor(self.threads)

    def submit(self, function: Callable[..., Any], *given: Any) -> Any:
        return self._executor.submit(function, *given)

    def buffer(self, name: str, shape: tuple[int, ...]) -> Any:
        """This thread's float32 array of a name, of unknown content."""
        return self.place.buffer(self._own.__dict__, name, shape)

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
        self.entry = base.resolved() if isinstance(base, Entry) else None
        if isinstance(base, Entry):
            self.dtype, self.raw = base.dtype, arrays.raw(base.resolved())
        else:
            self.dtype, self.raw = "F32", base.reshape(-1)
        self.shape: tuple[int, ...] = base.shape
        self.count = self.raw.size
        self.n = len(self.taus)
        self.width = max(1, self.count // self.shape[0] if len(self.shape) > 1 and self.shape[0] else self.count)

    # reading

    def pieces(self, whole_rows: bool = False) -> list[tuple[int, int]]:
        """(start, stop) of every task, none of which depends on the number of threads."""
        step = self._tile(whole_rows) * self.pool.place.TILES
        return [(start, min(start + step, self.count)) for start in range(0, self.count, step)]

    def _tile(self, whole_rows: bool) -> int:
        most: int = self.pool.place.TILE
        if self.width <= most:
            return most // self.width * self.width
        return self.width if whole_rows else most

    def tiles(self, start: int, stop: int, whole_rows: bool = False) -> Iterator[Tile]:
        """The tiles of a piece, in this thread's buffers."""
        step, place = self._tile(whole_rows), self.pool.place
        base32, taus = self.pool.buffer("base", (step,)), self.pool.buffer("taus", (self.n, step))
        for first in range(start, stop, step):
            size = min(step, stop - first)
            base = base32[:size]
            place.decode(self.dtype, self.raw[first : first + size], base)
            piece = Piece(first, first + size, self.entry, base)
            for tau, out in zip(self.taus, taus, strict=True):
                if tau is None:
                    out[:size] = 0
                else:
                    place.read(tau, piece, out[:size])
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
                part *= self.coefficients[position]
        return out.reshape(self.shape)

    def key(self, position: int, seed: int) -> numpy.uint64:
        """Of the random numbers for one vector in this tensor: no order, thread or device enters."""
        text = f"{seed}\0{self.name}\0{self.vectors[position]}".encode()
        return numpy.uint64(int.from_bytes(blake3(text).digest(8), "little"))

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
                    self.pool.place.column_products(together.reshape(self.n + 1, -1, width), found)
                else:
                    self.pool.place.inner_products(together, tile.start, width, first, found)
            return first, found

        total = numpy.zeros((parts, self.n + 1, self.n + 1))
        for first, found in self.each(piece, by == "column"):
            total[first : first + len(found)] += found
        signs = numpy.concatenate([[1.0], numpy.sign(self.coefficients)])
        signed: Array = total * signs[:, None] * signs[None, :]
        return signed
