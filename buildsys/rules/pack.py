"""A vector -> the same vector, smaller: trimmed, or in 8 or 4 bits an entry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES = {"vector": "vector"}
PRELOAD = ("numpy", "buildsys.merging.stream")
FLUSH = False


class Params(Strict):
    store: Literal["sparse", "int8", "int4"]
    density: Annotated[float, Field(gt=0, le=1)] | None = None  # share of each tensor that "sparse" keeps


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.merging import sums
    from buildsys.tensors import packing
    from buildsys.tensors.vectors import Vector

    vector = Vector(inputs["vector"])
    progress(f"packing {len(vector.taus)} tensors")
    return packing.pack(vector, params.store, sums.thresholds(vector, params.density or 1.0), out)
