"""The pass over a model: one tensor at a time from base and vectors, through a method, into the output. Bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from buildsys.errors import BuildError
from buildsys.merging.methods import METHODS, kept_number
from buildsys.tensors import checkpoints, delta

if TYPE_CHECKING:
    from buildsys.progress import Progress

_PIECE = 1 << 24  # entries of one vector looked at together when a threshold spans the model


def merge(
    base_folder: Path,
    vector_folders: Sequence[Path],
    coefficients: Sequence[float],
    method: str,
    options: Mapping[str, Any],
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Write base + merged τ as a Hugging Face folder with the base's other files, and return facts.

    The result is rounded once, to the dtype that each tensor of the base has. Raises BuildError before anything is written where a
    vector has a tensor that the base lacks or has in another shape, and while writing where a result is not finite.
    """
    base = checkpoints.Checkpoint(base_folder)
    vectors = [delta.Vector(folder) for folder in vector_folders]
    for position, vector in enumerate(vectors):
        vector.fits(base.entries, f"vector {position + 1}")
    signs = [-1.0 if coefficient < 0 else 1.0 for coefficient in coefficients]
    sizes = torch.tensor([abs(coefficient) for coefficient in coefficients], dtype=torch.float32)
    given = dict(options)
    if given.get("trim") == "model":
        total = sum(base.entries[name].count for name in {name for vector in vectors for name in vector.entries})
        given["thresholds"] = [model_threshold(vector, total, given["density"]) for vector in vectors]
    entries = {name: (entry.dtype, entry.shape) for name, entry in base.entries.items()}
    files = _layout(base, out)
    changed = 0
    done = 0
    for file, names in files.items():
        writer = checkpoints.Writer(file, {name: entries[name] for name in names}, {"format": "pt"})
        for name in names:
            progress(name, done / len(entries))
            tensor = delta.read(base.entries[name])
            taus = [vector.get(name) for vector in vectors]
            if any(tau is not None for tau in taus):
                moved = _merged(tensor, taus, signs, sizes, method, given)
                if not torch.isfinite(moved).all():
                    raise BuildError(f"tensor '{name}' of the merged model is not finite", hint="lower the coefficients")
                tensor, changed = moved, changed + 1
            writer.write(name, delta.raw(tensor))
            done += 1
        writer.close()
    _copy_rest(base_folder, out)
    return {"tensors": len(entries), "tensors_changed": changed, "bytes": base.size_bytes}


def _merged(
    base: torch.Tensor,
    taus: Sequence[torch.Tensor | None],
    signs: Sequence[float],
    sizes: torch.Tensor,
    method: str,
    options: Mapping[str, Any],
) -> torch.Tensor:
    zero = torch.zeros(base.shape)
    deltas = torch.stack([zero if tau is None else tau * sign for tau, sign in zip(taus, signs, strict=True)])
    return delta.added(base, METHODS[method](deltas, sizes, **options), 1.0)


def model_threshold(vector: delta.Vector, total: int, density: float) -> float:
    """The magnitude of the ⌊density·total⌋-th largest entry of a vector over the whole model, exactly, in two passes.

    The bit pattern of a non-negative float32 grows with its value: its upper half picks a bin, its lower half the entry.
    `total` counts the entries that any vector of the merge has; those that this one lacks are zeros.
    """
    wanted = kept_number(total, density)
    upper = torch.zeros(1 << 15, dtype=torch.int64)
    for bits in _magnitude_bits(vector):
        upper += torch.bincount(bits >> 16, minlength=1 << 15)
    from_top = upper.flip(0).cumsum(0)
    if int(from_top[-1]) < wanted:
        return 0.0
    place = int((from_top >= wanted).nonzero()[0])
    bin_, above = (1 << 15) - 1 - place, int(from_top[place - 1]) if place else 0
    lower = torch.zeros(1 << 16, dtype=torch.int64)
    for bits in _magnitude_bits(vector):
        lower += torch.bincount(bits[bits >> 16 == bin_] & 0xFFFF, minlength=1 << 16)
    rest = lower.flip(0).cumsum(0)
    low = (1 << 16) - 1 - int((rest >= wanted - above).nonzero()[0])
    return float(torch.tensor((bin_ << 16) | low, dtype=torch.int32).view(torch.float32))


def _magnitude_bits(vector: delta.Vector) -> Iterator[torch.Tensor]:
    for name in sorted(vector.entries):
        tau = vector.get(name)
        for piece in () if tau is None else tau.flatten().split(_PIECE):
            yield piece.abs().view(torch.int32).long()


def _layout(base: checkpoints.Checkpoint, out: Path) -> dict[Path, list[str]]:
    """Output file -> its tensors, sorted: the same shards as the base's."""
    found: dict[Path, list[str]] = {}
    for name in base.names:
        found.setdefault(out / base.entries[name].file.name, []).append(name)
    return found


def _copy_rest(base: Path, out: Path) -> None:
    """Configuration, tokenizer, chat template and generation settings, byte for byte; a shard index with its own total."""
    for name in checkpoints.model_files(path.name for path in base.iterdir()):
        if name.endswith(".safetensors"):
            continue
        data = (base / name).read_bytes()
        if name == "model.safetensors.index.json":
            data = json.dumps(json.loads(data), indent=2, sort_keys=True).encode() + b"\n"
        (out / name).write_bytes(data)
