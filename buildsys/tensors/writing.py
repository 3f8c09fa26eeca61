"""Safetensors files as we write them: canonical, hashed on the way, a model in shards of five gigabytes. No torch."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from buildsys.errors import BuildError
from buildsys.tensors.checkpoints import BYTES

SHARD_BYTES = 5_000_000_000
INDEX = "model.safetensors.index.json"
Header = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> (dtype as safetensors spells it, shape)


class Writer:
    """One safetensors file, written in order: names sorted, header canonical, so equal tensors are equal bytes.

    `digest` is the file's BLAKE3 once it is closed: hashing and writing are one pass.
    """

    def __init__(self, file: Path, entries: Header, metadata: Mapping[str, str]) -> None:
        if len(metadata) > 1:
            raise ValueError("safetensors readers order metadata at random: one key at most")
        table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        at = 0
        for name in sorted(entries):
            dtype, shape = entries[name]
            table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at := at + size_bytes(dtype, shape)]}
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._left = [(name, size_bytes(*entries[name])) for name in sorted(entries)]
        self._name, self._lacking = "", 0
        self._begins = {name: 8 + len(text) + table[name]["data_offsets"][0] for name in entries}
        self._hasher = blake3()
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._put(0, struct.pack("<Q", len(text)) + text)
        self._hasher.update(struct.pack("<Q", len(text)) + text)
        self.digest = ""

    def write(self, name: str, data: Any) -> None:
        """The next tensor's bytes, or the next part of them; names come in sorted order."""
        given = memoryview(data).cast("B")
        self.write_at(name, self.count(name, given), given)

    def write_at(self, name: str, at: int, data: Any) -> None:
        """Bytes of a tensor from its byte `at` on, from any thread and in any order; `count` has to be told of them in order."""
        self._put(self._begins[name] + at, data)

    def count(self, name: str, data: Any) -> int:
        """Take the next bytes into digest and account. Returns where in their tensor they stand."""
        while not self._lacking and self._left and self._name != name:
            self._name, self._lacking = self._left.pop(0)
            self._size = self._lacking
        given = memoryview(data).cast("B")
        if name != self._name or given.nbytes > self._lacking:
            raise ValueError(f"{name} is out of order")
        at = self._size - self._lacking
        self._lacking -= given.nbytes
        self._hasher.update(given)
        return at

    def _put(self, at: int, data: Any) -> None:
        left = memoryview(data).cast("B")
        while left:
            done = os.pwrite(self._file, left, at)
            left, at = left[done:], at + done

    def close(self) -> None:
        os.close(self._file)
        if self._lacking or any(size for _, size in self._left):
            raise ValueError("a tensor was never written, or not to its end")
        self.digest = self._hasher.hexdigest()


def size_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * BYTES[dtype]


def shards(entries: Header, at_most_bytes: int) -> dict[str, list[str]]:
    """File name -> the sorted names of its tensors: one file, or as many as the limit asks for."""
    parts: list[list[str]] = [[]]
    filled = 0
    for name in sorted(entries):
        size = size_bytes(*entries[name])
        if parts[-1] and filled + size > at_most_bytes:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{place:05}-of-{len(parts):05}.safetensors": names for place, names in enumerate(parts, 1)}


def index(entries: Header, files: Mapping[str, Iterable[str]]) -> bytes:
    """The text of model.safetensors.index.json."""
    weight_map = {name: file for file, names in files.items() for name in names}
    total = sum(size_bytes(*entry) for entry in entries.values())
    given = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(given, indent=2).encode() + b"\n"


def write_rounded(writer: Writer, name: str, dtype: str, numbers: Any) -> float:
    """Write float32 numbers in one of "F32" and "BF16", and return the sum of their squares. Raises BuildError where one is not finite."""
    import numpy

    from buildsys.tensors import arrays

    flat = numpy.ascontiguousarray(numbers).reshape(-1)
    if not numpy.isfinite(flat).all():
        raise BuildError(f"tensor '{name}' of the vector is not finite")
    if not flat.size:
        return 0.0
    out = flat
    if dtype == "BF16":
        out = numpy.empty(flat.size, numpy.uint16)
        arrays.encoded(dtype, flat, out)
    writer.write(name, out)
    return float(numpy.square(flat, dtype=numpy.float64).sum())
