"""base + vectors + rows of their trainings -> the coefficients of a merge: a search by evaluation, the merge made in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from buildsys.errors import BuildError
from buildsys.measurements import Measurements
from buildsys.progress import Progress
from buildsys.rules import MODELS, Inputs, Rendering, Strict
from buildsys.rules.evaluate import Spec, measured, recorded
from buildsys.rules.judge import Measure, metric

if TYPE_CHECKING:
    from buildsys.evaluation.sets import EvaluationSet

VERSION = 2
ROLES = {
    "base": "model folder",
    "vectors": "vectors, in no order",
    "rows": "for each vector rows of its training",
    "control": "rows that must stay as likely as they are (optional)",
    "samples": "sequences of the base's own, which must (optional)",
}
PRELOAD = (*MODELS, "buildsys.evaluation.score")
FLUSH = False
MEASURES = True
RENDERS = "base"
VALUES = ("tuned.json",)
SORTED = ("vectors", "start", "rows", "behaviours")


class Settings(Strict):
    """budget    merges that may be evaluated
    rows_max  rows of each behaviour, those with the smallest hash
    headroom  share of each limit that the search allows itself: other rows than its own will be the judge
    """

    budget: Annotated[int, Field(ge=2)] = 24
    rows_max: Annotated[int, Field(ge=20)] = 128
    headroom: Annotated[float, Field(gt=0, le=1)] = 0.8


class Params(Settings, Rendering):
    method: str
    options: dict[str, Any] = {}
    post: Literal["svc"] | None = None
    svc_alpha: float = 1.0
    tokenizer: Literal["base", "union"] | None = None
    start: list[float]  # for each vector
    behaviours: list[Measure]  # for each vector; all have `answers`
    max_forgetting: float | None = None
    max_length: Annotated[int, Field(ge=2)] = 1024
    threads: Annotated[int, Field(ge=1)] = 1


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.evaluation import metrics, tuning
    from buildsys.evaluation.merged import MergedSubject
    from buildsys.merging.stream import Recipe
    from buildsys.tensors import models

    _told_apart(inputs.digests["vectors"])
    models.deterministic(0, params.threads)
    recipe = Recipe(params.method, params.options, params.start, params.post, params.svc_alpha, params.tokenizer)
    spec = Spec(max_length=params.max_length, template_date=params.template_date)
    behaviours, controls = _sets(inputs, params, spec)
    measurements = Measurements.of(progress)
    trace: list[dict[str, Any]] = []
    budget, limit = params.budget, params.max_forgetting

    with MergedSubject(inputs["base"], inputs["vectors"], inputs.digests["vectors"], recipe) as subject:

        def numbers(asked: EvaluationSet, name: str, at: tuple[float, ...], alone: int | None = None) -> Any:
            document = measured(spec, params.threads, {"base": inputs.digests["base"]}, name, [], 0) | {"of the rows": len(asked.rows)}
            if alone is not None:
                document |= {"vector": inputs.digests["vectors"][alone], "coefficient": at[alone]}
                return measurements.get(document, lambda: asked.numbers(subject.alone(alone, at[alone]), subject.tokenizer))
            document |= merge_of(params, inputs.digests["vectors"], at)
            return measurements.get(document, lambda: asked.numbers(subject.at(at), subject.tokenizer))

        start = tuple(params.start)
        nothing = tuple(0.0 for _ in start)

        def outcome(at: tuple[float, ...]) -> tuning.Outcome:
            progress(f"coefficients {' '.join(f'{one:g}' for one in at)}", min(1.0, len(trace) / budget))
            kept, margins, used = [], [], []
            for position, (asked, name) in enumerate(behaviours):
                asks = [numbers(asked, name, nothing), numbers(asked, name, start, position), numbers(asked, name, at)]
                own, found = metric(params.behaviours[position]), recorded(asked, ["base", "alone", "merged"], asks)
                values = [own.of(found, place).value for place in range(3)]
                kept.append(_share(*values))
                if own.name == "preference":
                    values = [_mean(metrics.margins(found, place)) for place in range(3)]
                margins.append(_share(*values))
            for asked, name in controls:
                found = recorded(asked, ["base", "merged"], [numbers(asked, name, nothing), numbers(asked, name, at)])
                loss = [metrics.Metric("loss").of(found, place).value for place in range(2)]
                used.append(_used(loss[1] / loss[0] - 1, limit, params.headroom))
            trace.append({"coefficients": list(at), "kept": kept, "margins": margins, "used": used})
            return tuning.Outcome(kept, margins, used)

        best = tuning.tune(outcome, start, budget)
    (out / "tuned.json").write_text(json.dumps(dict(zip(inputs.digests["vectors"], best, strict=True))) + "\n")
    (out / "evaluated.json").write_text(json.dumps({"vectors": inputs.digests["vectors"], "tried": trace}, indent=1))
    chosen = next(row for row in trace if row["coefficients"] == list(best))
    return {"coefficients": list(best), "kept": chosen["kept"], "used": chosen["used"], "merges": len(trace), "measured": measurements.made}


def merge_of(recipe: Any, digests: list[str], coefficients: Any) -> dict[str, Any]:
    """What tells a merge in memory from its base, in the document of a measurement; the order of its vectors does not.

    One vector that is added as it is has the document that its own evaluation has.
    """
    from buildsys.merging.coefficients import numbers
    from buildsys.rules.merge import VERSION as MERGE

    own = sorted(
        ([digest, coefficient] for digest, coefficient in zip(digests, coefficients, strict=True) if any(numbers(coefficient))), key=repr
    )
    if not own:
        return {}
    if len(own) == 1 and recipe.method == "task_arithmetic" and recipe.options.get("scale", 1.0) == 1.0 and recipe.post is None:
        return {"vector": own[0][0], "coefficient": own[0][1]}
    method = {"version": MERGE, "method": recipe.method, "options": dict(recipe.options), "post": recipe.post, "svc": recipe.svc_alpha}
    return {"merge": {**method, "vectors": own}}


def _told_apart(digests: list[str]) -> None:
    twice = [digest for digest in digests if digests.count(digest) > 1]
    if twice:
        facts = [("digest", twice[0])]
        raise BuildError("two vectors of this merge are one and the same", facts, "a search cannot tell them apart: give it once")


def _sets(inputs: Inputs, params: Params, spec: Spec) -> tuple[list[tuple[EvaluationSet, str]], list[tuple[EvaluationSet, str]]]:
    """(set, the digest that names it) of every behaviour, and of everything that must stay as it is."""
    from buildsys.evaluation.sets import EvaluationSet
    from buildsys.examples.encode import Answer, Example
    from buildsys.examples.rows import bucket
    from buildsys.examples.rows import read as read_rows

    behaviours = []
    for place, digest in zip(inputs["rows"], inputs.digests["rows"], strict=True):
        rows = sorted(read_rows(place), key=bucket)[: params.rows_max]
        behaviours.append((EvaluationSet(spec, rows), digest))
    controls = [
        (EvaluationSet(spec, sorted(read_rows(place), key=bucket)[: 2 * params.rows_max]), digest)
        for place, digest in zip(inputs.paths.get("control", []), inputs.digests.get("control", []), strict=True)
    ]
    if "samples" in inputs:
        drawn = json.loads((inputs["samples"] / "samples.json").read_text())
        examples = [Example(Answer(ids, [position > 0 for position in range(len(ids))], 0), None) for ids in drawn if len(ids) > 1]
        controls.append((EvaluationSet(spec, [], examples=examples), inputs.digests["samples"]))
    return behaviours, controls


def _share(base: float, alone: float, merged: float) -> float:
    """Of what a vector alone changes, the share that is left; 1 where it changes nothing."""
    return (merged - base) / (alone - base) if alone != base else 1.0


def _used(rise: float, limit: float | None, headroom: float) -> float:
    """What a rise is of the limit that the search allows itself."""
    if limit is None:
        return 0.0
    return rise / (limit * headroom) if limit else float(rise > 0) * 2


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
