"""base + a model tuned from it -> a vector by reference: a record of both digests; its tensors are read when needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 2
ROLES = {"base": "model folder", "model": "model folder"}
PRELOAD = ("numpy",)
FLUSH = False
CARRIES = ("base", "model")


class Params(Strict):
    dtype: Literal["float32", "bfloat16"] | None = None  # of τ; None: bfloat16 for 16-bit bases, else float32


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.tensors import checkpoints, matching

    progress("comparing")
    base, _, found = matching.compared(inputs["base"], inputs["model"])
    dtype = params.dtype or checkpoints.delta_dtype(base)
    record: dict[str, Any] = {"base": inputs.digests["base"], "dtype": dtype, "model": inputs.digests["model"]}
    record |= {name: value for name, value in (("added_tokens", found.added), ("differs", found.differs), ("rows", found.rows)) if value}
    (out / "vector.json").write_text(json.dumps(record, indent=None if found.rows else 1, sort_keys=True) + "\n")
    facts = {"tensors": len(base.names), "parameters": base.parameters, "dtype": dtype}
    return facts | ({"differs": found.differs} if found.differs else {})
