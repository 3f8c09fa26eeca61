"""Task vectors on disk: stored whole, packed, or the difference of two checkpoints; read piece by piece as float32. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy

from buildsys.tensors import arrays, formats
from buildsys.tensors.arrays import Array
from buildsys.tensors.checkpoints import DTYPES, Checkpoint, Entry
from buildsys.tensors.matching import TOKEN_TABLES, mismatch, pairs

PIECE = 1 << 22  # entries read together where nobody says
BLOCK = 64  # entries that share a scale in int8 and int4


@dataclass(frozen=True)
class Piece:
    """Where a reader stands in a tensor: entries start … stop, and what is known of the merge's base there."""

    start: int
    stop: int
    base_entry: Entry | None = None
    base32: Array | None = None


class Tau(Protocol):
    """One tensor of a vector."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def short(self) -> bool:
        """Every number is one that bfloat16 has: the lower half of its bits is 0."""

    def read(self, piece: Piece, out: Array) -> None:
        """Entries of τ -> out, float32."""


@dataclass(frozen=True)
class Stored:
    """τ as it stands in a file."""

    entry: Entry

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def short(self) -> bool:
        return self.entry.dtype == "BF16"

    @cached_property
    def raw(self) -> Array:
        return arrays.raw(self.entry)

    def read(self, piece: Piece, out: Array) -> None:
        arrays.decode(self.entry.dtype, self.raw[piece.start : piece.stop], out)


@dataclass(frozen=True)
class Difference:
    """τ = model − base, computed in float32 and rounded to bfloat16 where the vector is kept in that.

    rows  for a tensor with a row a token, where the two vocabularies differ: the model's row for each row of the base, −1 for none
    """

    base: Entry
    model: Entry
    short: bool
    rows: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @cached_property
    def raw(self) -> tuple[Array, Array]:
        """Of base and model."""
        return arrays.raw(self.base), arrays.raw(self.model)

    def read(self, piece: Piece, out: Array) -> None:
        base, model = self.raw
        if self.rows is not None:
            numbers, absent = self._arranged(piece)
        else:
            numbers, absent = model[piece.start : piece.stop], None
        base32 = piece.base32 if piece.base_entry == self.base else None
        if base32 is None:
            base32 = numpy.empty(out.size, numpy.float32)
            arrays.decode(self.base.dtype, base[piece.start : piece.stop], base32)
        if self.base.dtype == "BF16":
            formats.difference_bfloat16(numbers, base32, self.short, out.view(numpy.uint32), out)
        elif self.base.dtype == "F64":
            out[:] = numbers - base[piece.start : piece.stop]
        else:
            arrays.decode(self.model.dtype, numbers, out)
            formats.subtract(out, base32)
        if self.short and self.base.dtype != "BF16":
            formats.round_to_bfloat16(out.view(numpy.uint32))
        if absent is not None:
            out[absent] = 0

    def _arranged(self, piece: Piece) -> tuple[Array, Array]:
        """(the model's numbers in the base's order of tokens, which of them it does not have)."""
        assert self.rows is not None
        width = self.base.count // self.base.shape[0]
        first, last = piece.start // width, -(-piece.stop // width)
        rows = self.rows[first:last]
        table = self.raw[1].reshape(-1, width)
        inside = slice(piece.start - first * width, piece.stop - first * width)
        return table[numpy.maximum(rows, 0)].reshape(-1)[inside], numpy.repeat(rows < 0, width)[inside]


@dataclass(frozen=True)
class Sparse:
    """The kept entries of τ and a bit for each entry that says which."""

    shape: tuple[int, ...]
    mask: Entry
    values: Entry

    @property
    def short(self) -> bool:
        return self.values.dtype == "BF16"

    @cached_property
    def _raw(self) -> tuple[Array, Array, Array]:
        mask = arrays.raw(self.mask)
        ones = numpy.bitwise_count(mask[: len(mask) // 512 * 512].reshape(-1, 512)).sum(1, dtype=numpy.int64)
        return mask, arrays.raw(self.values), numpy.concatenate([[0], numpy.cumsum(ones)])  # kept before every 4096th entry

    def read(self, piece: Piece, out: Array) -> None:
        mask, values, before = self._raw
        near = piece.start // 4096
        first = int(before[near]) + formats.count_bits(mask, near * 4096, piece.start)
        kept = numpy.empty(formats.count_bits(mask, piece.start, piece.stop), numpy.float32)
        arrays.decode(self.values.dtype, values[first : first + kept.size], kept)
        formats.unpack_sparse(mask, kept, piece.start, out)


@dataclass(frozen=True)
class Quantised:
    """τ as whole numbers of 8 or 4 bits, with a scale for each block of entries."""

    shape: tuple[int, ...]
    codes: Entry
    scales: Entry
    bits: int
    short: bool = False

    @cached_property
    def _raw(self) -> tuple[Array, Array]:
        return arrays.raw(self.codes), arrays.raw(self.scales)

    def read(self, piece: Piece, out: Array) -> None:
        codes, scales = self._raw
        unpack = formats.unpack_int8 if self.bits == 8 else formats.unpack_int4
        unpack(codes, scales, BLOCK, piece.start, out)


class Vector:
    """The tensors of a vector's folder by name, sorted. A name that it lacks is 0 throughout.

    added   tokens that the model has and the base has not, each with its row in the model's own embeddings
    differs what else of tokenizer and chat template is not the base's, in words
    """

    def __init__(self, folder: Path) -> None:
        record = folder / "vector.json"
        given: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
        self.added: dict[str, int] = given.get("added_tokens", {})
        self.differs: list[str] = given.get("differs", [])
        self.base: Checkpoint | None = None  # of a difference of two
        self.model: Checkpoint | None = None
        if "model" in given:
            self.base, self.model = Checkpoint(folder / "base"), Checkpoint(folder / "model")
            rows = numpy.array(given["rows"], dtype=numpy.int64) if "rows" in given else None
            self.taus: dict[str, Tau] = dict(_differences(self.base, self.model, given["dtype"] == "bfloat16", rows))
        elif "store" in given:
            self.taus = dict(_packed(Checkpoint(folder / "vector.safetensors"), given))
        else:
            entries = Checkpoint(folder / "vector.safetensors").entries
            self.taus = {name: Stored(entry) for name, entry in entries.items() if entry.dtype in DTYPES}

    def fits(self, base: Mapping[str, Entry], label: str) -> None:
        """Raises BuildError for the first tensor that the base lacks or has in another shape."""
        for name, tau in self.taus.items():
            other = base.get(name)
            if other is None or other.shape != tau.shape:
                raise mismatch(name, other, tau.shape, "base", label)

    def whole(self, name: str) -> Array | None:
        """τ of one tensor in its shape, or None where the vector has none."""
        tau = self.taus.get(name)
        if tau is None:
            return None
        out = numpy.empty(tau.shape, numpy.float32)
        flat = out.reshape(-1)
        for start in range(0, flat.size, PIECE):
            stop = min(start + PIECE, flat.size)
            tau.read(Piece(start, stop), flat[start:stop])
        return out


def _differences(base: Checkpoint, model: Checkpoint, short: bool, rows: Array | None) -> Iterator[tuple[str, Tau]]:
    for name, entry, other in pairs(base, model, rows is not None):
        if entry.dtype in DTYPES:
            moved = rows if rows is not None and entry.shape[:1] == rows.shape and _by_token(name) else None
            yield name, Difference(entry.resolved(), other, short, moved)


def _by_token(name: str) -> bool:
    return any(part in name for part in TOKEN_TABLES)


def _packed(file: Checkpoint, given: Mapping[str, Any]) -> Iterator[tuple[str, Tau]]:
    for name, sides in given["shapes"].items():
        shape, entries = tuple(sides), file.entries
        if given["store"] == "sparse":
            yield name, Sparse(shape, entries[f"{name}:mask"], entries[f"{name}:values"])
        else:
            yield name, Quantised(shape, entries[f"{name}:codes"], entries[f"{name}:scales"], 8 if given["store"] == "int8" else 4)
