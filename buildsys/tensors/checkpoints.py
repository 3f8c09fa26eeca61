"""Hugging Face folders read by their headers: what is in them, and what is wrong with them. No torch."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildsys import regular, strict
from buildsys.errors import BuildError
from buildsys.tensors import configuration, folders, positions

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_EXPONENTS = {"F64": ("u8", 0x7FF0_0000_0000_0000), "F32": ("u4", 0x7F80_0000), "F16": ("u2", 0x7C00), "BF16": ("u2", 0x7F80)}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONV1D = ("gpt2",)  # model types that keep the matrices of their layers (inputs, outputs)
_HEADER_BYTES_MAX = 100_000_000  # as the safetensors library has it
_INDEX_BYTES_MAX = 100_000_000
_RANK_MAX = 64  # sides of one tensor, as NumPy has it
_SIDES = ("vocab_size", "hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "ffn_dim", "d_ff")
_HEADS = ("num_attention_heads", "head_dim")
_TIMES_MAX = 4  # how much longer a side may be than any that is stored: some families store less than they name
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: dtype as safetensors spells it, shape, and where its bytes are."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def count(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count

    def resolved(self) -> Entry:
        """The same at its file's true place, so that two ways to one tensor are seen to be one."""
        return replace(self, file=self.file.resolve())

    def described(self) -> str:
        return f"{DTYPES.get(self.dtype, self.dtype)} {list(self.shape)}"


class Checkpoint:
    """The tensors of a model folder or of one safetensors file, by name, sorted.

    Raises BuildError for pickled weights, a truncated file, a missing shard, a header that is not one.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.files = [place] if place.is_file() else weight_files(place)
        self.entries: dict[str, Entry] = {}
        for file in self.files:
            for name, entry in header(file).items():
                if name in self.entries:
                    raise BuildError(f"tensor '{name}' is in two shards", [("folder", str(place))])
                self.entries[name] = entry
        self.names = sorted(self.entries)

    @property
    def parameters(self) -> int:
        return sum(entry.count for entry in self.entries.values())

    @property
    def size_bytes(self) -> int:
        return sum(entry.stop - entry.start for entry in self.entries.values())


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model: one, or the shards of its index. Raises as `folders.weights` does, and BuildError for none."""
    index, single = folder / folders.INDEX, folder / folders.WEIGHTS
    if os.path.lexists(index):
        shards = weight_names(index)
        missing = [name for name in shards if not os.path.lexists(folder / name)]
        if missing:
            raise BuildError("a shard is missing", [("folder", str(folder)), ("shard", missing[0])], "download it again")
        return [folder / name for name in folders.weights(folder, [folders.WEIGHTS] if os.path.lexists(single) else [], shards)]
    if os.path.lexists(single):
        return [single]
    pickles = sorted(name for name in os.listdir(folder) if name.endswith(_PICKLES)) if folder.is_dir() else []
    if pickles:
        raise BuildError(
            "the weights are pickled, and a pickle can run code",
            [("folder", str(folder)), ("file", pickles[0])],
            "save the model again with save_pretrained, which writes safetensors",
        )
    raise BuildError("the folder has no weights", [("folder", str(folder)), ("expected", "model.safetensors")])


def weight_names(index: Path) -> list[str]:
    """As `parsed_index`, of a file."""
    return parsed_index(regular.read(index, _INDEX_BYTES_MAX), index)


def parsed_index(data: bytes, file: Path) -> list[str]:
    """The sorted names of the shards that an index has. Raises BuildError for one that is not a file of the model's folder."""
    facts = [("file", str(file))]
    name = "the index of the shards"
    weight_map = strict.parsed_json(data, name, _INDEX_BYTES_MAX, facts=facts, hint="download it again", unique=True).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        reason = "it has no weight_map from tensors to shards"
        raise BuildError(f"{name} cannot be read", [*facts, ("reason", reason)], "download it again")
    for shard in weight_map.values():
        if type(shard) is not str or not folders.model_files([shard]):
            facts.append(("shard", strict.shortened(repr(shard), 80)))
            hint = "shards are files beside the index, such as model-00001-of-00002.safetensors"
            raise BuildError("the index names a shard that is not a file of the model", facts, hint)
    return sorted(set(weight_map.values()))


def header(file: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file, checked against its length."""
    size = regular.check(file)
    with open(file, "rb") as data:
        first = data.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > size - 8:
            raise _truncated(file, size, 8 + length if len(first) == 8 else 8)
        if length > _HEADER_BYTES_MAX:
            raise _not_safetensors(file, f"its header has {length:,} bytes, and {_HEADER_BYTES_MAX:,} are the limit")
        return parsed_header(data.read(length), size, file)


def parsed_header(data: bytes, size: int, file: Path) -> dict[str, Entry]:
    """The tensors that a header declares.

    data  the JSON behind the first eight bytes; size: of the whole file

    Raises BuildError unless the tensors have a known dtype, and fill the rest of the file one behind the other, as the format asks.
    """
    try:
        table = strict.json_value(data, _HEADER_BYTES_MAX, unique=True)
    except strict.Malformed as error:
        raise _not_safetensors(file, f"its header {error}") from error
    if not isinstance(table, dict):
        raise _not_safetensors(file, "its header is not a JSON object")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(text) is str for text in metadata.values()):
        raise _not_safetensors(file, "__metadata__ is not a table of texts")
    begin = 8 + len(data)
    with strict.uncollected():
        entries = {name: _entry(name, fields, begin, file) for name, fields in table.items()}
    _check_places(entries, begin, size, file)
    return entries


def _entry(name: str, fields: Any, begin: int, file: Path) -> Entry:
    """One tensor of a header. By hand, since a schema would collect every fault of a hundred thousand tensors before it raises."""
    if type(fields) is not dict:
        raise _not_safetensors(file, f"tensor '{strict.shortened(name, 80)}' is not a table")
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if type(dtype) is not str or type(shape) is not list or type(offsets) is not list or len(offsets) != 2:
        raise _not_safetensors(file, f"tensor '{strict.shortened(name, 80)}' lacks a dtype, a shape or two data_offsets")
    for numbers in (shape, offsets):
        for number in numbers:
            if type(number) is not int or number < 0:
                shown = strict.shortened(repr(number), 40)
                raise _not_safetensors(file, f"tensor '{strict.shortened(name, 80)}' has {shown}, expected a size of 0 or more")
    if len(shape) > _RANK_MAX:
        raise _not_safetensors(file, f"tensor '{strict.shortened(name, 80)}' has {len(shape):,} sides, and {_RANK_MAX} are the limit")
    return Entry(file, dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _check_places(entries: Mapping[str, Entry], begin: int, size: int, file: Path) -> None:
    end = max((entry.stop for entry in entries.values()), default=begin)
    if end != size:
        raise _truncated(file, size, end)
    for name, entry in entries.items():
        if entry.dtype not in BYTES:
            facts = [("file", str(file)), ("dtype", strict.shortened(entry.dtype, 40))]
            raise BuildError(f"tensor '{name}' has a dtype that is not supported", facts, f"known are {', '.join(BYTES)}")
        if entry.count * BYTES[entry.dtype] != entry.stop - entry.start:
            raise BuildError(f"tensor '{name}' has the wrong number of bytes", [("file", str(file))])
    starts, stops = [entry.start for entry in entries.values()], [entry.stop for entry in entries.values()]
    if starts != [begin, *stops[:-1]][: len(starts)]:  # not one behind the other as they are listed
        before = begin
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
            if entry.start != before:
                relation = "overlaps another one" if entry.start < before else "begins behind a gap"
                raise _not_safetensors(file, f"tensor '{strict.shortened(name, 80)}' {relation}")
            before = entry.stop


def _not_safetensors(file: Path, reason: str) -> BuildError:
    return BuildError("the file is not a safetensors file", [("file", str(file)), ("reason", reason)])


def _truncated(file: Path, size: int, expected: int) -> BuildError:
    facts = [("file", str(file)), ("has", f"{size:,} bytes"), ("expected", f"{expected:,} bytes")]
    return BuildError("the checkpoint is truncated", facts, "download or copy it again")


def check_size(folder: Path, config: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raises BuildError where a configuration is for a far larger model than the weights are of: transformers would make it first."""
    facts = [("folder", str(folder))]
    layers = next((config[name] for name in _LAYERS if type(config.get(name)) is int), 0)
    if layers > len(checkpoint.names):
        facts += [("layers", f"{layers:,}"), ("tensors", f"{len(checkpoint.names):,}")]
        raise BuildError("config.json has more layers than the weights have tensors", facts)
    longest = max((side for entry in checkpoint.entries.values() for side in entry.shape), default=0)
    sides = [(name, number) for name, number in configuration.numbers(config) if name in _SIDES]
    positions.check(config, {name: checkpoint.entries[name].shape for name in checkpoint.names}, _TIMES_MAX, facts)
    heads, width = (next((number for name, number in configuration.numbers(config) if name == key), 0) for key in _HEADS)
    for name, number in [*sides, (" × ".join(_HEADS), heads * width)]:
        if number > _TIMES_MAX * longest:
            facts += [(name, f"{number:,}"), ("longest side of a tensor", f"{longest:,}")]
            raise BuildError("config.json is for a larger model than the weights are of", facts)


def checked(folder: Path) -> dict[str, Any]:
    """Facts about a model folder. Raises BuildError unless it holds a causal language model with finite weights."""
    given = configuration.read(folder)
    architectures: list[str] = given.get("architectures") or []
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        raise BuildError(
            "the base is not a causal language model",
            [("folder", str(folder)), ("architecture", ", ".join(architectures) or "none named in config.json")],
            "a base is a model such as LlamaForCausalLM or GPT2LMHeadModel",
        )
    if given.get("auto_map"):
        raise BuildError("the model needs code of its own, which is never run", [("folder", str(folder)), ("config.json", "has auto_map")])
    if given.get("quantization_config"):
        facts = [("folder", str(folder)), ("config.json", "has quantization_config")]
        raise BuildError(
            "the model is quantised, and a difference of codes is no difference of weights", facts, "use the one that it was made from"
        )
    checkpoint = Checkpoint(folder)
    check_size(folder, given, checkpoint)
    for name in checkpoint.names:
        position = first_not_finite(checkpoint.entries[name])
        if position is not None:
            raise BuildError(
                f"tensor '{name}' is not finite", [("file", str(checkpoint.entries[name].file)), ("first at", f"entry {position}")]
            )
    return {
        "architecture": architectures[0],
        "parameters": checkpoint.parameters,
        "bytes": checkpoint.size_bytes,
        "dtype": widest(checkpoint),
    }


def first_not_finite(entry: Entry) -> int | None:
    """The first flat position that holds NaN or infinity: all exponent bits set. No float is computed."""
    import numpy

    if entry.dtype not in _EXPONENTS or not entry.count:
        return None
    kind, ones = _EXPONENTS[entry.dtype]
    bits = numpy.memmap(entry.file, dtype=f"<{kind}", mode="r", offset=entry.start, shape=(entry.count,))
    step = 1 << 22
    for start in range(0, entry.count, step):
        bad = (bits[start : start + step] & ones) == ones
        if bad.any():
            return start + int(bad.argmax())
    return None


def widest(checkpoint: Checkpoint) -> str:
    """The widest floating dtype of a model, in torch's spelling."""
    kinds = {entry.dtype for entry in checkpoint.entries.values() if entry.dtype in DTYPES}
    return DTYPES[max(kinds, key=lambda kind: (BYTES[kind], kind == "BF16"))] if kinds else "float32"


def delta_dtype(base: Checkpoint) -> str:
    """What τ is kept in where nobody says: float32 for a float32 base, bfloat16 for a 16-bit one."""
    return "float32" if widest(base) in ("float32", "float64") else "bfloat16"


def copy(folder: Path, out: Path) -> None:
    """A model's files, and no others. Raises UsageError for one that is not a regular file of the folder."""
    weights = {file.name for file in weight_files(folder)}
    names = [name for name in folders.model_files(os.listdir(folder)) if name in weights or not name.endswith(".safetensors")]
    folders.check(folder, names)
    for name in names:
        shutil.copyfile(folder / name, out / name)
