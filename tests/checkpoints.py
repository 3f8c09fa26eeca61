"""Tiny checkpoints on disk, made without torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy

from buildsys.tensors.writing import Writer

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def checkpoint(folder: Path, tensors: Mapping[str, Sequence[float]], config: Mapping[str, object] | None = None) -> Path:
    """A model folder with flat float32 tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    writer = Writer(folder / "model.safetensors", {name: ("F32", (len(values),)) for name, values in tensors.items()}, {"format": "pt"})
    for name in sorted(tensors):
        writer.write(name, numpy.array(tensors[name], dtype="<f4").tobytes())
    writer.close()
    return folder
