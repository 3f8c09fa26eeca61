"""What a method makes of one tensor: a rule for its entries. Applied tile by tile; what it needs to know of the tensor it knows already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy

from buildsys.merging.deltas import By, Deltas, Tile
from buildsys.merging.ranges import Elect, Mean
from buildsys.tensors.arrays import Array


class Rule(Protocol):
    """The merged delta of one tensor, entry by entry."""

    @property
    def whole_rows(self) -> bool: ...

    def apply(self, deltas: Deltas, tile: Tile, out: Array) -> None:
        """The merged delta of a tile -> out, float32."""


@dataclass(frozen=True)
class Drawn:
    """Entries kept by chance.

    density  the probability with which one is kept
    epsilon  how far it rises over a row, from the smallest magnitude to the largest; None: not at all
    rescale  kept entries are divided by their probability
    """

    density: float
    epsilon: float | None
    rescale: bool
    seed: int

    @property
    def bound(self) -> numpy.uint64:
        """Of 32 random bits: below it, an entry is kept."""
        return numpy.uint64(round(self.density * 2**32))

    @property
    def factor(self) -> numpy.float32:
        return numpy.float32(1 / self.density if self.rescale else 1)


@dataclass(frozen=True)
class Entrywise:
    """Trim, draw, elect, sum, divide, scale.

    lows, highs  (n,) an entry is kept where low ≤ |τ| ≤ high; of |α·τ| with `joint`
    least        an entry whose variance over the vectors is below is dropped from all of them
    elect        sign that an entry takes: any | of the larger mass | of the majority
    mean         of those that agree: their sum | divided by their number | by the sum of their |α|
    shares       (n,) instead of `mean`: each of those that agree times its share, divided by the sum of these
    """

    lows: Array | None = None
    highs: Array | None = None
    joint: bool = False
    drawn: Drawn | None = None
    least: numpy.float32 | None = None
    elect: Elect = "none"
    mean: Mean = "sum"
    shares: Array | None = None
    scale: float = 1.0

    @property
    def whole_rows(self) -> bool:
        return self.drawn is not None and self.drawn.epsilon is not None

    def prepared(self, deltas: Deltas, tile: Tile) -> None:
        """Do what changes the tile's τ themselves: erase, draw."""
        if self.least is not None:
            found = deltas.pool.buffer("variances", (tile.size,))
            deltas.pool.place.variances(tile.taus, tile.size, deltas.coefficients, found)
            deltas.pool.place.erase_below(tile.taus, tile.size, found, self.least)
        if self.drawn is not None:
            for position in range(deltas.n):
                _draw(self.drawn, deltas, position, tile)

    def constants(self, deltas: Deltas) -> tuple[Array, Array, float, int, Array]:
        """(lows, highs, divisor without election, what the sum is divided by with it, shares)."""
        n = deltas.n
        lows = numpy.zeros(n, numpy.float32) if self.lows is None else self.lows
        highs = numpy.full(n, numpy.inf, numpy.float32) if self.highs is None else self.highs
        weight = float(numpy.abs(deltas.coefficients).sum(dtype=numpy.float64))
        divisor = {"sum": 1.0, "count": float(n), "coefficient": weight}[self.mean]
        divide = 3 if self.shares is not None else {"sum": 0, "count": 1, "coefficient": 2}[self.mean]
        shares = numpy.ones(n, numpy.float32) if self.shares is None else self.shares
        return lows, highs, divisor, divide, shares

    def apply(self, deltas: Deltas, tile: Tile, out: Array) -> None:
        self.prepared(deltas, tile)
        place, coefficients = deltas.pool.place, deltas.coefficients
        lows, highs, divisor, divide, shares = self.constants(deltas)
        if self.elect == "none":
            place.summed(tile.taus, tile.size, coefficients, lows, highs, self.joint, out)
            if divisor != 1.0:
                place.divide(out, numpy.float32(divisor))
        else:
            by_count = self.elect == "count"
            place.elected(tile.taus, tile.size, coefficients, lows, highs, self.joint, by_count, divide, shares, out)
        if self.scale != 1.0:
            place.scale(out, numpy.float32(self.scale))


def _draw(drawn: Drawn, deltas: Deltas, position: int, tile: Tile) -> None:
    tau, key, place = tile.taus[position, : tile.size], deltas.key(position, drawn.seed), deltas.pool.place
    if drawn.epsilon is None:
        place.keep_random(tau, tile.start, key, drawn.bound, drawn.factor)
        return
    ordered = place.sorted_rows(tau, min(deltas.width, tile.size))
    place.keep_by_rank(tau, tile.start, key, ordered, drawn.density, drawn.epsilon, drawn.rescale)


@dataclass(frozen=True)
class Spanned:
    """c₀·base + Σ cᵢ·τᵢ: a point that angles have found.

    factors  (parts, 1 + n) float32, for τ as the vectors have them: the sign of a coefficient is in its factor
    by       what a part is: the tensor, a row, a column
    """

    factors: Array
    by: By = "tensor"
    whole_rows: bool = False

    def apply(self, deltas: Deltas, tile: Tile, out: Array) -> None:
        width = max(1, deltas.count) if self.by == "tensor" else deltas.width
        combine = deltas.pool.place.spanned_by_column if self.by == "column" else deltas.pool.place.spanned
        combine(tile.base, tile.taus, tile.size, tile.start, width, self.factors, out)


@dataclass(frozen=True)
class Whole:
    """A merged delta that had to be found for the tensor at once.

    delta  float32, in the tensor's shape
    """

    delta: Array
    whole_rows: bool = False

    def apply(self, deltas: Deltas, tile: Tile, out: Array) -> None:
        out[:] = deltas.pool.place.whole(self.delta.reshape(-1)[tile.start : tile.start + tile.size])
