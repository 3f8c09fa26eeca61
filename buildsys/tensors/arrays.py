"""A tensor of a file as a flat array: mapped, never written to, decoded to float32 and encoded again piece by piece. No torch."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy

from buildsys.tensors import formats
from buildsys.tensors.checkpoints import Entry

Array = numpy.ndarray[Any, Any]

RAW = {
    "F64": "<f8", "F32": "<f4", "F16": "<u2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1",
    "BOOL": "<u1",
}  # fmt: skip
"""What an entry's numbers are read as: 16-bit floats as their bits."""

_ALL_EXPONENT_BITS = {"F32": 0x7F800000, "BF16": 0x7F80, "F16": 0x7C00}


@lru_cache(maxsize=512)
def _mapped(file: Path, size: int, modified: int) -> Array:
    return numpy.memmap(file, dtype=numpy.uint8, mode="r").view(numpy.ndarray)


def raw(entry: Entry) -> Array:
    """The tensor's numbers, flat. Mapped from its file; read whole where the file does not align them."""
    kind = numpy.dtype(RAW[entry.dtype])
    if not entry.count:
        return numpy.empty(0, kind)
    if entry.start % kind.itemsize:
        return numpy.fromfile(entry.file, kind, entry.count, offset=entry.start)
    found = entry.file.stat()
    numbers = _mapped(entry.file, found.st_size, found.st_mtime_ns)[entry.start : entry.stop]
    _populate(numbers)
    return numbers.view(kind)


def _populate(numbers: Array) -> None:
    """Map a tensor's pages in one call, where the system has one for it: a fault for each costs ten times as much."""
    if sys.platform == "linux":
        populate_read, page = 22, mmap.PAGESIZE  # linux/mman.h, from 5.14 on; an older kernel says no, and nothing is lost
        start = numbers.ctypes.data // page * page
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(numbers.ctypes.data + numbers.size - start), populate_read)


def decode(dtype: str, numbers: Array, out: Array) -> None:
    """Numbers as `raw` gives them -> out, float32 of the same length."""
    if dtype == "BF16":
        formats.decode_bfloat16(numbers, out.view(numpy.uint32))
    elif dtype == "F16":
        formats.decode_float16(numbers, out.view(numpy.uint32), out)
    else:
        out[:] = numbers


def added(dtype: str, base: Array, base32: Array, delta: Array, scratch: Array, out: Array) -> bool:
    """base + delta, rounded once to the base's dtype, into `out`, as `raw` has it. False where a result is not finite.

    base, base32  the same numbers as in the file and as float32
    scratch       float32 of the same length, written to
    """
    if dtype == "F64":
        numpy.add(base, delta, out=out)
        return bool(numpy.isfinite(out).all())
    if dtype == "F32":
        formats.add(base32, delta, out)
        return bool(formats.worst_exponent(out.view(numpy.uint32)) != _ALL_EXPONENT_BITS[dtype])
    if dtype == "BF16":
        worst = formats.added_bfloat16(base32, delta, scratch.view(numpy.uint32), scratch, out)
        return bool(worst != _ALL_EXPONENT_BITS[dtype])
    formats.add(base32, delta, scratch)
    return encoded(dtype, scratch, out)


def encoded(dtype: str, numbers: Array, out: Array) -> bool:
    """float32 numbers, rounded to a 16-bit dtype, into `out`. False where one is not finite afterwards."""
    encode = formats.encode_bfloat16 if dtype == "BF16" else formats.encode_float16
    return bool(encode(numbers.view(numpy.uint32), out) != _ALL_EXPONENT_BITS[dtype])
