"""Tokens that only some models of a merge have: refused, left out, or given rows of their own. Owns what stands beside the tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from buildsys.errors import BuildError
from buildsys.tensors import arrays, checkpoints, configuration, folders, tokens, writing
from buildsys.tensors.arrays import Array
from buildsys.tensors.checkpoints import Checkpoint
from buildsys.tensors.matching import HEADS, by_token, embeddings_of
from buildsys.tensors.vectors import Vector


class Vocabulary:
    """tokenizer  None: differences are refused | "base": the base's tokens and template | "union": the others' added tokens as well

    Raises BuildError for a difference that nobody asked to reconcile, with both sides.
    """

    def __init__(self, base: Checkpoint, vectors: Sequence[Vector], labels: Sequence[str], tokenizer: str | None) -> None:
        for label, vector in zip(labels, vectors, strict=True):
            if vector.differs and tokenizer is None:
                facts = [(label, text) for text in vector.differs]
                hint = 'tokenizer = "base" keeps the base\'s tokens and template, "union" also adds the tokens'
                raise BuildError("a model of the merge has other tokens than the base", facts, hint)
        self._base = base
        having = [vector for vector in vectors if vector.added] if tokenizer == "union" else []
        packed = [label for label, vector in zip(labels, vectors, strict=True) if vector in having and vector.model is None]
        if packed:
            facts = [(packed[0], "holds differences only, no rows of new tokens")]
            raise BuildError('tokenizer = "union" needs the models themselves', facts, 'say store = "exact" for this vector')
        own = tokens.read(base.place)
        known_already = set(own.added) if own else set()
        self._new = sorted({token for vector in having for token in vector.added} - known_already)
        self._sources: dict[str, dict[str, Any]] = {}
        self._rows: dict[str, Array] = {}
        if not self._new:
            return
        if own is None or not (base.place / "tokenizer.json").exists():
            raise BuildError('tokenizer = "union" needs the base\'s tokenizer.json', [("folder", str(base.place))])
        self._first = max([own.size - 1, *own.added.values()]) + 1
        for vector in having:
            assert vector.model is not None
            known = tokens.entries(vector.model.place)
            self._sources |= {token: known[token] for token in vector.added if token in self._new and token not in self._sources}
        self._sources = {token: self._sources[token] for token in self._new}
        for name, entry in base.entries.items():
            if by_token(name):
                self._rows[name] = self._mean_rows(name, entry, having)

    def _mean_rows(self, name: str, entry: checkpoints.Entry, having: Sequence[Vector]) -> Array:
        """(tokens, width) as `arrays.raw` has them: each token's row, the mean over the models that have it."""
        width = _width(entry)
        total, number = numpy.zeros((len(self._new), width)), numpy.zeros((len(self._new), 1))
        for vector in having:
            assert vector.model is not None
            other = vector.model.entries.get(name) or (embeddings_of(vector.model) if name in HEADS else None)  # a tied head
            if other is None or _width(other) != width:
                continue
            raw = arrays.raw(other).reshape(-1, width)
            for place, token in enumerate(self._new):
                if token in vector.added:
                    row = numpy.empty(width, numpy.float32)
                    arrays.decode(other.dtype, raw[vector.added[token]], row)
                    total[place] += row
                    number[place] += 1
        mean = (total / numpy.maximum(number, 1)).astype(numpy.float32).reshape(-1)
        if entry.dtype not in ("BF16", "F16"):
            return mean.astype(arrays.RAW[entry.dtype])
        out = numpy.empty(mean.size, numpy.uint16)
        arrays.encoded(entry.dtype, mean, out)
        return out

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A tensor's shape in the output."""
        return (max(shape[0], self._first + len(self._new)), *shape[1:]) if name in self._rows else shape

    def replace_rows(self, name: str, start: int, out: Array) -> None:
        """Put new tokens into rows that the base has, but no token of its own: in a piece that begins at entry `start`."""
        if name not in self._rows:
            return
        first = self._first * _width(self._base.entries[name])
        left, right = max(first, start), min(start + out.size, first + self._rows[name].size)
        if left < right:
            out[left - start : right - start] = self._rows[name][left - first : right - first]

    def new_rows(self, name: str) -> Array:
        """The rows behind the base's last one."""
        if name not in self._rows:
            return numpy.empty(0, numpy.uint8)
        entry = self._base.entries[name]
        return self._rows[name][max(0, entry.shape[0] - self._first) * _width(entry) :]

    def copy_rest(self, base: Path, out: Path) -> None:
        """Configuration, tokenizer, chat template and generation settings, byte for byte but for new tokens."""
        for name in folders.model_files(path.name for path in base.iterdir()):
            if not name.endswith(".safetensors") and name != writing.INDEX:
                (out / name).write_bytes((base / name).read_bytes())
        if not self._new:
            return
        settings = out / "tokenizer_config.json"
        texts = tokens.extended(
            (out / "tokenizer.json").read_bytes(), settings.read_bytes() if settings.exists() else None, self._sources, self._first, base
        )
        for file, text in zip((out / "tokenizer.json", settings), texts, strict=True):
            if text is not None:
                file.write_bytes(text)
        given = configuration.read(out)
        given["vocab_size"] = max(given.get("vocab_size") or 0, self._first + len(self._new))
        (out / "config.json").write_text(json.dumps(given, indent=2) + "\n")

    def facts(self) -> dict[str, Any]:
        return {"tokens_added": self._new} if self._new else {}


def _width(entry: checkpoints.Entry) -> int:
    """Entries of a row; 1 for a bias."""
    return entry.shape[1] if len(entry.shape) > 1 else 1
