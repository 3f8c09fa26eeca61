"""base + vector + rows + gates -> the coefficients that are worth judging: a bracketing search. Chooses none of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from buildsys.measurements import Measurements
from buildsys.progress import Progress
from buildsys.rules import MODELS, Inputs, Strict
from buildsys.rules.evaluate import Spec, measured, opened, recorded
from buildsys.rules.judge import ControlGates, Judged, gates, named

VERSION = 1
ROLES = {
    "base": "model folder",
    "vector": "vector",
    "rows": "rows of the behaviour",
    "controls": "rows of each control set",
    "files": "the files of all sets, those of the behaviour first",
}
PRELOAD = (*MODELS, "buildsys.evaluation.score")
FLUSH = False
MEASURES = True
RENDERS = "base"  # in each of its sets
VALUES = ("coefficients.json",)


class Settings(Strict):
    """Where a search begins, where it ends, and how often it may evaluate."""

    start: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    most: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    budget: Annotated[int, Field(ge=3)] = 10


class Params(Settings, Judged):
    sets: list[Spec]  # of the behaviour, then of each control set
    has_rows: list[bool]  # for each set: a task of lm-eval brings its own
    controls: list[ControlGates]
    threads: Annotated[int, Field(ge=1)] = 1


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.evaluation import bracket, verdict
    from buildsys.evaluation.subject import Subject
    from buildsys.tensors import models

    models.deterministic(0, params.threads)
    rows, files = list(_rows(inputs.paths, params)), _files(inputs.paths, params)
    row_digests, file_digests = list(_rows(inputs.digests, params)), _files(inputs.digests, params)
    asked = [opened(spec, place, own) for spec, place, own in zip(params.sets, rows, files, strict=True)]
    measurements, names = Measurements.of(progress), progress.settings["names"]  # of the control sets, for what is said of them
    sign = -1.0 if params.direction == "reduce" else 1.0

    with Subject(inputs["base"], inputs["vector"]) as subject:

        def numbers(at: int, coefficient: float) -> Any:
            document = measured(params.sets[at], params.threads, inputs.digests, row_digests[at] or "", file_digests[at], coefficient)
            return measurements.get(document, lambda: asked[at].numbers(subject.at(coefficient), subject.tokenizer))

        def point(size: float) -> bracket.Point:
            progress(f"coefficient {sign * size:g}")
            found = [recorded(one, [0.0, sign * size], [numbers(at, 0.0), numbers(at, sign * size)]) for at, one in enumerate(asked)]
            row = verdict.judge(found[0], named(names, found[1:], params.controls), gates(params))["table"][1]
            return bracket.Point(row["gain_choosing"], row["within_gates"])

        tried = bracket.search(point, params.start, params.most, params.budget)
    coefficients = [sign * size for size in tried]
    (out / "coefficients.json").write_text(json.dumps({"coefficients": coefficients}) + "\n")
    return {"coefficients": coefficients, "measured": measurements.made}


def _rows(given: Any, params: Params) -> Any:
    """For each set its rows, or None."""
    own = iter([*([given["rows"]] if "rows" in given else []), *given.get("controls", [])])
    return (next(own) if has else None for has in params.has_rows)


def _files(given: Any, params: Params) -> list[list[Any]]:
    """For each set the files that come with it."""
    every = iter(given.get("files", []))
    return [[next(every) for _ in spec.files] for spec in params.sets]
