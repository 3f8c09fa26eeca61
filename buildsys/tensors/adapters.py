"""PEFT LoRA adapters as vectors: τ = scaling · B·A of each module, in the base's names and orientation. No torch, no peft."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from buildsys.errors import BuildError, nearest
from buildsys.tensors import arrays, checkpoints
from buildsys.tensors.arrays import Array
from buildsys.tensors.checkpoints import ADAPTER_FILES, Checkpoint, Entry
from buildsys.tensors.matching import mismatch

_PREFIX = "base_model.model."
_FACTORS = (".lora_A.weight", ".lora_B.weight")
_EMBEDDING_FACTORS = (".lora_embedding_A", ".lora_embedding_B")


class Adapter:
    """An adapter's folder beside the base that it was trained on.

    Raises BuildError for an adapter that is no LoRA, has DoRA's magnitudes, or does not fit the base, naming the tensor.
    """

    def __init__(self, folder: Path, base: Checkpoint) -> None:
        self.folder, self.base = folder, base
        self.config = _config(folder)
        self._conv1d = checkpoints.config(base.place).get("model_type") in checkpoints.CONV1D
        self.entries = Checkpoint(folder / ADAPTER_FILES[1]).entries
        magnitudes = [name for name in self.entries if "lora_magnitude_vector" in name]
        if self.config.get("use_dora") or magnitudes:
            raise BuildError("the adapter is a DoRA, whose magnitudes are no difference of weights", [("folder", str(folder))], _MERGE_IT)
        self.modules = sorted({name[: -len(_FACTORS[0])] for name in self.entries if name.endswith(_FACTORS[0])})
        self.embeddings = sorted({name[: -len(_EMBEDDING_FACTORS[0])] for name in self.entries if name.endswith(_EMBEDDING_FACTORS[0])})
        factors = {module + part for module in self.modules for part in _FACTORS}
        factors |= {module + part for module in self.embeddings for part in _EMBEDDING_FACTORS}
        lacking = sorted(factors - set(self.entries))
        if lacking:
            raise BuildError(f"tensor '{lacking[0]}' is missing from the adapter", [("folder", str(folder))], "copy it again")
        self.copies = {name for name in self.entries if ".base_layer." in name}  # of embeddings and heads that have factors as well
        self.whole = sorted(set(self.entries) - factors - self.copies)
        if not self.modules and not self.embeddings and not self.whole:
            raise BuildError("the adapter has no tensors", [("folder", str(folder))])

    def names(self) -> dict[str, str]:
        """The base's tensor -> what makes its τ: a module, or a tensor that the adapter has whole. Sorted, and checked by shape."""
        found: dict[str, str] = {}
        for module in [*self.modules, *self.embeddings]:
            name = self._in_base(f"{module}.weight")
            rows, columns = self._sides(module)
            if self.base.entries[name].shape != (rows, columns):
                facts = [("base", self.base.entries[name].described()), ("adapter", f"B·A is [{rows}, {columns}]")]
                raise BuildError(f"tensor '{name}' does not match", facts, "was the adapter trained on this base?")
            found[name] = module
        for tensor in self.whole:
            name = self._in_base(tensor)
            if self.base.entries[name].shape != self.entries[tensor].shape:
                facts = [("base", self.base.entries[name].described()), ("adapter", self.entries[tensor].described())]
                raise BuildError(f"tensor '{name}' does not match", facts, "was the adapter trained on this base?")
            found[name] = tensor
        return dict(sorted(found.items()))

    def does_nothing(self) -> bool:
        """True where every B is 0, as an adapter is before its first update, and nothing is saved whole."""
        parts = [module + _FACTORS[1] for module in self.modules] + [module + _EMBEDDING_FACTORS[1] for module in self.embeddings]
        return not self.whole and not any(_float32(self.entries[name]).any() for name in parts)

    def tau(self, name: str, source: str) -> Array:
        """τ of one of the base's tensors, float32, in its shape."""
        if source in self.entries:
            return _float32(self.entries[source]) - _float32(self.base.entries[name])
        first, second = self._factors(source)
        product = (_float32(self.entries[second]) @ _float32(self.entries[first])) * numpy.float32(self.scaling(source))
        tau = numpy.ascontiguousarray(product.T if self._turned(source) else product)
        copy = f"{source}.base_layer.weight"
        if copy in self.copies:  # what PEFT saved of the base below the factors; it may have been trained, or resized, on its own
            if self.entries[copy].shape != self.base.entries[name].shape:
                raise mismatch(name, self.base.entries[name], self.entries[copy], "base", "adapter")
            tau += _float32(self.entries[copy]) - _float32(self.base.entries[name])
        return tau

    def scaling(self, module: str) -> float:
        """α/r, or α/√r with rslora; patterns of ranks and alphas as PEFT reads them."""
        rank = self.entries[self._factors(module)[0]].shape[0]
        alpha = _by_pattern(self.config.get("alpha_pattern") or {}, module.removeprefix(_PREFIX), self.config.get("lora_alpha", 8))
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _factors(self, module: str) -> tuple[str, str]:
        parts = _EMBEDDING_FACTORS if module in self.embeddings else _FACTORS
        return module + parts[0], module + parts[1]

    def _turned(self, module: str) -> bool:
        """Embeddings are kept (tokens, width), and Conv1D (inputs, outputs): the other way round than B·A."""
        if module in self.embeddings:
            return True
        if self._conv1d:  # PEFT goes by the class of the module, not by the flag that it saves
            return module.rpartition(".")[2].startswith("c_")
        return bool(self.config.get("fan_in_fan_out"))

    def _sides(self, module: str) -> tuple[int, int]:
        first, second = self._factors(module)
        sides = self.entries[second].shape[0], self.entries[first].shape[1]
        return (sides[1], sides[0]) if self._turned(module) else sides

    def _in_base(self, tensor: str) -> str:
        name = tensor.removeprefix(_PREFIX).replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
        for one in (name, *(f"{prefix}.{name}" for prefix in ("model", "transformer", "gpt_neox")), name.partition(".")[2]):
            if one in self.base.entries:
                return one
        close = nearest(name, self.base.names)
        facts = [("adapter", tensor), ("base", "has none")] + ([("nearest there", close)] if close else [])
        raise BuildError(f"tensor '{name}' does not match", facts, "was the adapter trained on this base?")


_MERGE_IT = "merge it into its base with PEFT and name the merged model by path"


def _config(folder: Path) -> dict[str, Any]:
    try:
        given = json.loads((folder / ADAPTER_FILES[0]).read_bytes())
    except (OSError, ValueError) as error:
        raise BuildError("the folder is no adapter", [("folder", str(folder)), ("lacks", ADAPTER_FILES[0])]) from error
    if not isinstance(given, dict) or str(given.get("peft_type")).upper() != "LORA":
        kind = given.get("peft_type") if isinstance(given, dict) else "no table"
        raise BuildError("the adapter is no LoRA", [("folder", str(folder)), ("peft_type", str(kind))], _MERGE_IT)
    return given


def _by_pattern(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """PEFT's rule: a pattern is the module's name or the end of it, after a dot; a regular expression."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _float32(entry: Entry) -> Array:
    out = numpy.empty(entry.count, numpy.float32)
    arrays.decode(entry.dtype, arrays.raw(entry), out)
    return out.reshape(entry.shape)
