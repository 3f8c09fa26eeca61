"""PEFT LoRA adapters as vectors: τ = scaling · B·A of each module, in the base's names and orientation. No torch, no peft."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import SchemaError, SchemaValidator, core_schema

from buildsys import regular, strict
from buildsys.errors import BuildError, nearest
from buildsys.tensors import arrays, checkpoints, configuration
from buildsys.tensors.arrays import Array
from buildsys.tensors.checkpoints import Checkpoint, Entry
from buildsys.tensors.folders import ADAPTER_FILES
from buildsys.tensors.matching import mismatch

_PREFIX = "base_model.model."
_FACTORS = (".lora_A.weight", ".lora_B.weight")
_EMBEDDING_FACTORS = (".lora_embedding_A", ".lora_embedding_B")
_CONFIG_BYTES_MAX = 1_000_000
_REPEATING_MAX = 20  # patterns of an engine that takes milliseconds to prepare one
Pattern = Annotated[str, Field(max_length=200)]
Alphas = list[tuple[Callable[[str], object], float]]  # what tells whether a module is meant -> its α


class LoraConfig(BaseModel):
    """What decides τ of a LoRA's adapter_config.json; PEFT has more in it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    r: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    lora_alpha: Annotated[float, Field(allow_inf_nan=False)] = 8
    use_rslora: bool | None = None
    use_dora: bool | None = None
    fan_in_fan_out: bool | None = None
    alpha_pattern: Annotated[dict[Pattern, Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=2000)] | None = None


class Adapter:
    """An adapter's folder beside the base that it was trained on.

    Raises BuildError for an adapter that is not a LoRA, has DoRA's magnitudes, or does not fit the base, naming the tensor.
    """

    def __init__(self, folder: Path, base: Checkpoint) -> None:
        self.folder, self.base = folder, base
        self.config, self._alphas = _config(folder)
        self._conv1d = configuration.read(base.place).get("model_type") in checkpoints.CONV1D
        self.entries = Checkpoint(folder / ADAPTER_FILES[1]).entries
        magnitudes = [name for name in self.entries if "lora_magnitude_vector" in name]
        if self.config.use_dora or magnitudes:
            raise BuildError("the adapter is a DoRA, whose magnitudes are no difference of weights", [("folder", str(folder))], _MERGE_IT)
        self.modules = sorted({name[: -len(_FACTORS[0])] for name in self.entries if name.endswith(_FACTORS[0])})
        self.embeddings = sorted({name[: -len(_EMBEDDING_FACTORS[0])] for name in self.entries if name.endswith(_EMBEDDING_FACTORS[0])})
        factors = {module + part for module in self.modules for part in _FACTORS}
        factors |= {module + part for module in self.embeddings for part in _EMBEDDING_FACTORS}
        lacking = sorted(factors - set(self.entries))
        if lacking:
            raise BuildError(f"tensor '{lacking[0]}' is missing from the adapter", [("folder", str(folder))], "copy it again")
        for module in [*self.modules, *self.embeddings]:
            self._check_factors(module)
        self.copies = {name for name in self.entries if ".base_layer." in name}  # of embeddings and heads that have factors as well
        self.whole = sorted(set(self.entries) - factors - self.copies)
        if not self.modules and not self.embeddings and not self.whole:
            raise BuildError("the adapter has no tensors", [("folder", str(folder))])

    def _check_factors(self, module: str) -> None:
        """Raises BuildError unless a module's A and B are matrices of one rank."""
        for name in self._factors(module):
            entry = self.entries[name]
            if entry.dtype not in checkpoints.DTYPES or len(entry.shape) != 2 or not entry.count:
                facts = [("folder", str(self.folder)), ("has", entry.described())]
                raise BuildError(f"tensor '{name}' is not a matrix of floating-point numbers", facts, _MERGE_IT)
        first, second = (self.entries[name] for name in self._factors(module))
        if first.shape[0] != second.shape[1]:
            facts = [("A", first.described()), ("B", second.described())]
            raise BuildError(f"module '{module}' has factors of two ranks", facts, "copy the adapter again")

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
        name = module.removeprefix(_PREFIX)
        alpha = next((alpha for matches, alpha in self._alphas if matches(name)), self.config.lora_alpha)
        return alpha / (math.sqrt(rank) if self.config.use_rslora else rank)

    def _factors(self, module: str) -> tuple[str, str]:
        parts = _EMBEDDING_FACTORS if module in self.embeddings else _FACTORS
        return module + parts[0], module + parts[1]

    def _turned(self, module: str) -> bool:
        """Embeddings are kept (tokens, width), and Conv1D (inputs, outputs): the other way round than B·A."""
        if module in self.embeddings:
            return True
        if self._conv1d:  # PEFT goes by the class of the module, not by the flag that it saves
            return module.rpartition(".")[2].startswith("c_")
        return bool(self.config.fan_in_fan_out)

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


def parsed_config(data: bytes, folder: Path) -> tuple[LoraConfig, Alphas]:
    """adapter_config.json of a LoRA, and its `alpha_pattern` in order.

    Raises BuildError for another kind of adapter, for a field of the wrong type, and for a pattern that cannot be used.
    """
    facts = [("folder", str(folder))]
    document = strict.parsed_json(data, ADAPTER_FILES[0], _CONFIG_BYTES_MAX, facts=facts, unique=True, nan=True)
    if str(document.get("peft_type")).upper() != "LORA":
        kind = strict.shortened(str(document.get("peft_type")), 40)
        raise BuildError("the adapter is not a LoRA", [*facts, ("peft_type", kind)], _MERGE_IT)
    config = strict.validated(LoraConfig, document, ADAPTER_FILES[0], facts)
    patterns = config.alpha_pattern or {}
    repeating = sum(_REPEATS.search(pattern) is not None for pattern in patterns)
    if repeating > _REPEATING_MAX:
        facts += [("alpha_pattern", f"{repeating:,} with repetitions or groups"), ("limit", str(_REPEATING_MAX))]
        raise BuildError("the adapter has too many patterns", facts, _MERGE_IT)
    return config, [(_matcher(pattern, folder), alpha) for pattern, alpha in patterns.items()]


def _config(folder: Path) -> tuple[LoraConfig, Alphas]:
    try:
        data = regular.read(folder / ADAPTER_FILES[0], _CONFIG_BYTES_MAX)
    except OSError as error:
        raise BuildError("the folder is not an adapter", [("folder", str(folder)), ("lacks", ADAPTER_FILES[0])]) from error
    return parsed_config(data, folder)


def _matcher(pattern: str, folder: Path) -> Callable[[str], object]:
    """PEFT's rule: a pattern is the module's name or the end of it, after a dot; a regular expression.

    One that repeats something is run by the linear engine that pydantic brings: Python's own would take for ever over some.
    """
    try:
        if not _REPEATS.search(pattern):
            return strict.pattern(rf"(.*\.)?({pattern})$", 1000).match
        schema = core_schema.str_schema(pattern=rf"^(?:(.*\.)?({pattern}))$", regex_engine="rust-regex")
        return SchemaValidator(schema).isinstance_python
    except (strict.Malformed, SchemaError) as error:
        reason = str(error).strip().splitlines()[-1].strip()  # the line of several that names the fault
        facts = [("folder", str(folder)), ("alpha_pattern", strict.shortened(pattern, 60)), ("reason", reason)]
        raise BuildError("the adapter has a pattern that cannot be used", facts, _MERGE_IT) from error


_REPEATS = re.compile(r"[*+?{(]")


def _float32(entry: Entry) -> Array:
    out = numpy.empty(entry.count, numpy.float32)
    arrays.decode(entry.dtype, arrays.raw(entry), out)
    return out.reshape(entry.shape)
