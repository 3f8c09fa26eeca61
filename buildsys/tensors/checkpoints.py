"""Hugging Face folders read by their headers: what is in them, and what is wrong with them. No torch."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildsys.errors import BuildError

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_EXPONENTS = {"F64": ("u8", 0x7FF0_0000_0000_0000), "F32": ("u4", 0x7F80_0000), "F16": ("u2", 0x7C00), "BF16": ("u2", 0x7F80)}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt", ".tiktoken")
MODEL_PATTERNS = [f"*{suffix}" for suffix in _SUFFIXES]
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
CONV1D = ("gpt2",)  # model types that keep the matrices of their layers (inputs, outputs)
_NOT_A_MODEL = ("trainer_state.json", "training_args.json", "optimizer.safetensors", *ADAPTER_FILES)


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

    Raises BuildError for pickled weights, a truncated file, a missing shard, a header that is none.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.files = [place] if place.is_file() else weight_files(place)
        self.entries: dict[str, Entry] = {}
        for file in self.files:
            for name, entry in header(file).items():
                if name in self.entries:
                    raise BuildError(f"tensor '{name}' stands in two shards", [("folder", str(place))])
                self.entries[name] = entry
        self.names = sorted(self.entries)

    @property
    def parameters(self) -> int:
        return sum(entry.count for entry in self.entries.values())

    @property
    def size_bytes(self) -> int:
        return sum(entry.stop - entry.start for entry in self.entries.values())


def model_files(names: Iterable[str]) -> list[str]:
    """Which of a folder's files are the model: what from_pretrained may read, no training state and no pickle."""
    return sorted(name for name in names if name.endswith(_SUFFIXES) and not name.startswith(".") and name not in _NOT_A_MODEL)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model: one, or the shards of its index."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.exists():
        try:
            shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise BuildError("the index of the shards cannot be read", [("file", str(index))], "download it again") from error
        missing = [name for name in shards if not (folder / name).exists()]
        if missing:
            raise BuildError("a shard is missing", [("folder", str(folder)), ("shard", missing[0])], "download it again")
        return [folder / name for name in shards]
    if single.exists():
        return [single]
    pickles = sorted(name for name in os.listdir(folder) if name.endswith(_PICKLES)) if folder.is_dir() else []
    if pickles:
        raise BuildError(
            "the weights are pickled, and a pickle can run code",
            [("folder", str(folder)), ("file", pickles[0])],
            "save the model again with save_pretrained, which writes safetensors",
        )
    raise BuildError("the folder has no weights", [("folder", str(folder)), ("expected", "model.safetensors")])


def header(file: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file, checked against its length."""
    size = file.stat().st_size
    with open(file, "rb") as data:
        first = data.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > size - 8:
            raise _truncated(file, size, 8 + length if len(first) == 8 else 8)
        try:
            given = json.loads(data.read(length))
            entries = {
                name: Entry(file, one["dtype"], tuple(one["shape"]), *(8 + length + at for at in one["data_offsets"]))
                for name, one in given.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BuildError("the file is no safetensors file", [("file", str(file))]) from error
    end = max((entry.stop for entry in entries.values()), default=8 + length)
    if end != size:
        raise _truncated(file, size, end)
    for name, entry in entries.items():
        if entry.dtype not in BYTES:
            facts = [("file", str(file)), ("dtype", entry.dtype)]
            raise BuildError(f"tensor '{name}' has a dtype that is not supported", facts, f"known are {', '.join(BYTES)}")
        if entry.count * BYTES[entry.dtype] != entry.stop - entry.start:
            raise BuildError(f"tensor '{name}' has the wrong number of bytes", [("file", str(file))])
    return entries


def _truncated(file: Path, size: int, expected: int) -> BuildError:
    facts = [("file", str(file)), ("has", f"{size:,} bytes"), ("expected", f"{expected:,} bytes")]
    return BuildError("the checkpoint is truncated", facts, "download or copy it again")


def config(folder: Path) -> dict[str, Any]:
    try:
        given = json.loads((folder / "config.json").read_bytes())
        if isinstance(given, dict):
            return given
    except FileNotFoundError as error:
        raise BuildError("the folder is no model", [("folder", str(folder)), ("lacks", "config.json")]) from error
    except ValueError:
        pass
    raise BuildError("config.json cannot be read", [("folder", str(folder))])


def checked(folder: Path) -> dict[str, Any]:
    """Facts about a model folder. Raises BuildError unless it holds a causal language model with finite weights."""
    given = config(folder)
    architectures = given.get("architectures") or []
    if not any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        raise BuildError(
            "the base is no causal language model",
            [("folder", str(folder)), ("architecture", ", ".join(map(str, architectures)) or "none named in config.json")],
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
    for name in model_files(os.listdir(folder)):
        shutil.copyfile(folder / name, out / name)
