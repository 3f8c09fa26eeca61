"""base + a model tuned from it -> a vector by reference: a record of both digests; its tensors are read when needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES = {"base": "model folder", "model": "model folder"}
PRELOAD = ("numpy",)
FLUSH = False
CARRIES = ("base", "model")


class Params(Strict):
    dtype: Literal["float32", "bfloat16"] | None = None  # of τ; None: bfloat16 for 16-bit bases, else float32


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.tensors import checkpoints

    progress("comparing")
    base, model = checkpoints.Checkpoint(inputs["base"]), checkpoints.Checkpoint(inputs["model"])
    checkpoints.same_tensors(base, model, "base", "model")
    dtype = params.dtype or checkpoints.delta_dtype(base)
    record = {"base": inputs.digests["base"], "dtype": dtype, "model": inputs.digests["model"]}
    (out / "vector.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return {"tensors": len(base.names), "parameters": base.parameters, "dtype": dtype}
