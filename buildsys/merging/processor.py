"""Where tiles are worked on when that is a processor: NumPy arrays in buffers that are used again, and the compiled loops."""

from __future__ import annotations

import math
from typing import Any

import numpy

from buildsys.merging.kernels import (
    LOWER,
    UPPER,
    column_products,
    decisions,
    divide,
    dot,
    elected,
    erase_below,
    inner_products,
    keep_by_rank,
    keep_random,
    oppositions,
    scale,
    spanned,
    spanned_by_column,
    summed,
    variances,
    weigh,
)  # fmt: skip
from buildsys.merging.kernels import (
    count_each_upper as _count_each_upper,
)
from buildsys.merging.kernels import (
    count_lower as _count_lower,
)
from buildsys.tensors import arrays
from buildsys.tensors.arrays import Array
from buildsys.tensors.vectors import Piece, Tau

__all__ = [
    "LOWER", "TILE", "TILES", "UPPER", "added", "buffer", "column_products", "count_each_upper", "count_lower", "decisions", "decode",
    "divide", "dot", "elected", "erase_below", "host", "inner_products", "keep_by_rank", "keep_random", "magnitudes", "oppositions",
    "read", "scale", "sorted_rows", "spanned", "spanned_by_column", "summed", "variances", "weigh", "whole",
]  # fmt: skip

TILE, TILES = 1 << 16, 4  # entries that a core works on at a time, and how many of these make a task


def buffer(own: dict[str, Any], name: str, shape: tuple[int, ...]) -> Array:
    """A thread's float32 array of a name, at least as large as asked for, of unknown content, made once."""
    size = math.prod(shape)
    found = own.get(name)
    if found is None or found.size < size:
        found = own[name] = numpy.empty(size, numpy.float32)
    reused: Array = found[:size].reshape(shape)
    return reused


def decode(dtype: str, numbers: Array, out: Array) -> None:
    """Numbers as a file has them -> out, float32."""
    arrays.decode(dtype, numbers, out)


def read(tau: Tau, piece: Piece, out: Array) -> None:
    """Entries of τ -> out."""
    tau.read(piece, out)


def added(dtype: str, base: Array, base32: Array, delta: Array, scratch: Array, out: Array) -> bool:
    """base + delta, rounded once, into `out`. False where a result is not finite."""
    return arrays.added(dtype, base, base32, delta, scratch, out)


def whole(array: Array) -> Array:
    """An array of the host's, where the work is done."""
    return array


def host(array: Array) -> Array:
    """An array from where the work is done, on the host."""
    return array


def magnitudes(numbers: Array) -> Array:
    """(groups, n) |numbers|, sorted, as an array of the host's."""
    ordered: Array = numpy.sort(numpy.abs(numbers), axis=1)
    return ordered


def sorted_rows(tau: Array, width: int) -> Array:
    """(rows, width) magnitudes, growing."""
    ordered: Array = numpy.sort(numpy.abs(tau).reshape(-1, width), axis=1)
    return ordered


def count_each_upper(numbers: Array, size: int, counts: Array) -> None:
    _count_each_upper(numbers.view(numpy.uint32), size, counts)


def count_lower(numbers: Array, upper: int, found: Array) -> None:
    _count_lower(numbers.view(numpy.uint32), numpy.uint32(upper), found)
