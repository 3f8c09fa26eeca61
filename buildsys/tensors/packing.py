"""Vectors made small: entries below a threshold left out, or whole numbers of 8 or 4 bits with a scale a block. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy

from buildsys.tensors import arrays
from buildsys.tensors.arrays import Array
from buildsys.tensors.vectors import BLOCK, Vector
from buildsys.tensors.writing import Writer


def pack(vector: Vector, store: str, threshold: Callable[[str], numpy.float32], out: Path) -> dict[str, Any]:
    """Write a vector's folder in another store, and return what became of it: bytes and errors.

    store      "sparse", "int8" or "int4"
    threshold  tensor -> the smallest magnitude that "sparse" keeps there
    """
    names = sorted(name for name, tau in vector.taus.items() if numpy.prod(tau.shape) > 0)
    sizes: dict[str, tuple[str, tuple[int, ...]]] = {}
    kept, lost, entries = 0.0, 0.0, 0
    for name in names:  # the header stands before the numbers, so their sizes are needed first
        for suffix, dtype, numbers in _parts(vector, name, store, threshold):
            sizes[f"{name}:{suffix}"] = (dtype, numbers.shape)
    writer = Writer(out / "vector.safetensors", sizes, {})
    for name in names:
        tau = vector.whole(name)
        assert tau is not None
        parts = {f"{name}:{suffix}": numbers for suffix, _, numbers in _parts(vector, name, store, threshold)}
        for part in sorted(parts):
            if parts[part].size:
                writer.write(part, parts[part])
        error = tau.reshape(-1) - _restored(parts, name, store, tau.size)
        lost += float(numpy.square(error, dtype=numpy.float64).sum())
        kept += float(numpy.square(tau, dtype=numpy.float64).sum())
        entries += tau.size
    writer.close()
    record = {"shapes": {name: list(vector.taus[name].shape) for name in names}, "store": store}
    record |= {name: value for name, value in (("added_tokens", vector.added), ("differs", vector.differs)) if value}
    (out / "vector.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    exact = sum(int(numpy.prod(vector.taus[name].shape)) * (2 if vector.taus[name].short else 4) for name in names)
    size = (out / "vector.safetensors").stat().st_size
    facts = {"store": store, "bytes": size, "bytes_exact": exact, "bits_an_entry": round(8 * size / max(entries, 1), 3)}
    return facts | {"relative_error": round((lost / kept) ** 0.5 if kept else 0.0, 6)}


def _parts(vector: Vector, name: str, store: str, threshold: Callable[[str], numpy.float32]) -> Iterator[tuple[str, str, Array]]:
    tau = vector.whole(name)
    assert tau is not None
    flat = tau.reshape(-1)
    if store == "sparse":
        keeps = (numpy.abs(flat) >= threshold(name)) & (flat != 0)
        values = flat[keeps]
        yield "mask", "U8", numpy.packbits(keeps, bitorder="little")
        if vector.taus[name].short:
            yield "values", "BF16", (values.view(numpy.uint32) >> 16).astype(numpy.uint16)
        else:
            yield "values", "F32", values
        return
    top = 127 if store == "int8" else 7
    blocks = numpy.zeros((-(-flat.size // BLOCK), BLOCK), numpy.float32)
    blocks.reshape(-1)[: flat.size] = flat
    scales = numpy.abs(blocks).max(1) / numpy.float32(top)
    codes = numpy.rint(blocks / numpy.where(scales > 0, scales, 1)[:, None]).astype(numpy.int8).reshape(-1)[: flat.size]
    if store == "int8":
        yield "codes", "I8", codes
    else:
        nibbles = numpy.zeros(-(-flat.size // 2) * 2, numpy.uint8)
        nibbles[: flat.size] = codes + 8
        yield "codes", "U8", nibbles[::2] | (nibbles[1::2] << 4)
    yield "scales", "F32", scales


def _restored(parts: dict[str, Array], name: str, store: str, size: int) -> Array:
    out = numpy.zeros(size, numpy.float32)
    if store == "sparse":
        keeps = numpy.unpackbits(parts[f"{name}:mask"], bitorder="little", count=size).astype(bool)
        values = parts[f"{name}:values"]
        found = numpy.empty(values.size, numpy.float32)
        arrays.decode("BF16" if values.dtype == numpy.uint16 else "F32", values, found)
        out[keeps] = found
        return out
    codes, scales = parts[f"{name}:codes"], parts[f"{name}:scales"]
    if store == "int4":
        codes = (numpy.stack([codes & 15, codes >> 4], 1).reshape(-1)[:size]).astype(numpy.int8) - 8
    restored: Array = codes.astype(numpy.float32) * numpy.repeat(scales, BLOCK)[:size]
    return restored
