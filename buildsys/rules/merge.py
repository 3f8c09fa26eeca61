"""base + vectors + a recipe -> a merged model in a Hugging Face folder, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 2
ROLES = {"base": "model folder", "vectors": "vectors, in no order"}
PRELOAD = ("numpy", "buildsys.merging.stream")
FLUSH = False
SORTED = ("vectors", "coefficients")
THREADED = True


class Params(Strict):
    method: str
    coefficients: list[Any]  # numbers, lists over depth, tables of patterns
    options: dict[str, Any] = {}
    post: Literal["svc"] | None = None
    svc_alpha: float = 1.0
    tokenizer: Literal["base", "union"] | None = None


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.merging import stream

    recipe = stream.Recipe(params.method, params.options, params.coefficients, params.post, params.svc_alpha, params.tokenizer)
    threads, device = progress.settings["threads"], progress.settings["device"]
    work = stream.Merge(inputs["base"], inputs["vectors"], inputs.digests["vectors"], recipe, threads, device)
    try:
        return stream.merge(work, out, progress)
    finally:
        work.close()
