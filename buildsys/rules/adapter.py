"""base + a PEFT LoRA adapter trained on it -> a vector: τ of every module that the adapter changes, expanded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES = {"base": "model folder", "folder": "the adapter's folder"}
PRELOAD = ("numpy",)
FLUSH = False


class Params(Strict):
    dtype: Literal["float32", "bfloat16"] | None = None  # of τ; None: bfloat16 for 16-bit bases, else float32


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.errors import BuildError
    from buildsys.tensors import adapters, checkpoints, writing

    base = checkpoints.Checkpoint(inputs["base"])
    adapter = adapters.Adapter(inputs["folder"], base)
    names = adapter.names()
    if adapter.does_nothing():
        facts = [("folder", str(inputs["folder"])), ("B matrices", f"{len(adapter.modules) + len(adapter.embeddings)}, all 0")]
        raise BuildError("the adapter does nothing", facts, "an adapter that was never trained, or saved too early")
    dtype = params.dtype or checkpoints.delta_dtype(base)
    kind = "F32" if dtype == "float32" else "BF16"
    writer = writing.Writer(out / "vector.safetensors", {name: (kind, base.entries[name].shape) for name in names}, {})
    squares = 0.0
    for position, (name, source) in enumerate(names.items()):
        progress(name, position / len(names))
        squares += writing.write_rounded(writer, name, kind, adapter.tau(name, source))
    writer.close()
    return {"tensors": len(names), "rank": adapter.config.r, "dtype": dtype, "tau_norm": squares**0.5}
