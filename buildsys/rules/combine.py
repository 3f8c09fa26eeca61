"""vectors + coefficients -> their weighted sum, a vector again: sums, and analogies as B − A + C."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES = {"vectors": "vectors, in no order"}
PRELOAD = ("numpy", "buildsys.merging.stream")
FLUSH = False
SORTED = ("vectors", "coefficients")


class Params(Strict):
    coefficients: list[float]
    dtype: Literal["float32", "bfloat16"] | None = None  # of τ; None: bfloat16 where all parts are kept in that


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.merging import sums

    return sums.weighted_sum(inputs["vectors"], inputs.digests["vectors"], params.coefficients, params.dtype, out, progress)
