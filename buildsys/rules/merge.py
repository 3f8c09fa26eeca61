"""base + vectors + a recipe -> a merged model in a Hugging Face folder, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES = {"base": "model folder", "vectors": "vectors, in no order"}
PRELOAD = ("torch", "buildsys.merging.stream")
FLUSH = False
SORTED = ("vectors", "coefficients")


class Params(Strict):
    method: str
    coefficients: list[float]
    options: dict[str, Any] = {}


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.merging import stream

    return stream.merge(inputs["base"], inputs["vectors"], params.coefficients, params.method, params.options, out, progress)
