"""base + vectors + recipe + rows -> what each vector of a merge, and each pair, costs a metric: merges in memory without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from buildsys.measurements import Measurements
from buildsys.progress import Progress
from buildsys.rules import MODELS, Inputs, Strict
from buildsys.rules.evaluate import Spec, measured, opened, recorded
from buildsys.rules.judge import Measure, metric
from buildsys.rules.tune import merge_of

VERSION = 1
ROLES = {
    "base": "model folder",
    "vectors": "vectors, in no order",
    "rows": "rows of the metric (none for a task of lm-eval)",
    "files": "a judge's source, or the files of a task",
    "merged": "evaluation of the merged model on these rows, where there is one",
}
PRELOAD = (*MODELS, "buildsys.evaluation.score")
FLUSH = False
MEASURES = True
RENDERS = "base"
VALUES = ("bisect.json",)


class Params(Strict):
    method: str
    options: dict[str, Any] = {}
    post: Literal["svc"] | None = None
    svc_alpha: float = 1.0
    tokenizer: Literal["base", "union"] | None = None
    coefficients: list[Any]
    asked: Spec
    measure: Measure
    direction: Literal["raise", "reduce"] = "raise"
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: int = 0
    threads: Annotated[int, Field(ge=1)] = 1


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.evaluation import blame
    from buildsys.evaluation.merged import MergedSubject
    from buildsys.merging import inspection
    from buildsys.merging.stream import Merge, Recipe
    from buildsys.tensors import models

    models.deterministic(0, params.threads)
    recipe = Recipe(params.method, params.options, params.coefficients, params.post, params.svc_alpha, params.tokenizer)
    rows, files = inputs.digests.get("rows", ""), inputs.digests.get("files", [])
    asked = opened(params.asked, inputs.paths.get("rows"), inputs.paths.get("files", []))
    measurements, vectors = Measurements.of(progress), inputs.digests["vectors"]
    merged = json.loads((inputs["merged"] / "evaluation.json").read_text())["numbers"][0] if "merged" in inputs else None

    with MergedSubject(inputs["base"], inputs["vectors"], vectors, recipe) as subject:

        def numbers(without: frozenset[int]) -> Any:
            if not without and merged is not None:
                return merged
            progress(f"without {', '.join(str(at + 1) for at in sorted(without)) or 'none'}")
            at = [0.0 if position in without else one for position, one in enumerate(params.coefficients)]
            document = measured(params.asked, params.threads, {"base": inputs.digests["base"]}, rows, files, 0) | merge_of(
                params, vectors, at
            )
            return measurements.get(document, lambda: asked.numbers(subject.at(at), subject.tokenizer))

        beside = recorded(asked, ["base"], [numbers(frozenset(range(len(vectors))))])
        reduce = params.direction == "reduce"
        found = blame.blame(numbers, len(vectors), metric(params.measure), reduce, beside, params.confidence, params.seed)
    work = Merge(inputs["base"], inputs["vectors"], vectors, recipe)
    try:
        lying = inspection.merge(work, [str(at) for at in range(len(vectors))])
    finally:
        work.close()
    found |= {"cosines": lying["cosines"], "conflicts": lying["conflicts"]}
    (out / "bisect.json").write_text(json.dumps(found, indent=1, allow_nan=False))
    return {"measured": measurements.made}
