"""evaluations + gates -> a coefficient and a verdict. Reads numbers only: a changed gate evaluates nothing again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from buildsys.evaluation.names import MetricName
from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

if TYPE_CHECKING:
    from buildsys.evaluation.metrics import Evaluation, Metric
    from buildsys.evaluation.verdict import Control, Gates

VERSION = 2
ROLES = {"rows": "evaluation of the behaviour's held-out rows", "controls": "evaluation of each control set"}
PRELOAD = ()
FLUSH = False
VALUES = ("verdict.json",)


class Measure(Strict):
    """What is made of an evaluation."""

    metric: MetricName = "loss"
    contains: list[str] = []
    regex: str = ""


class Judged(Measure):
    """The gates of a behaviour on its own rows."""

    direction: Literal["raise", "reduce"] = "raise"
    min_gain: float = 0.0
    min_metric: float | None = None
    reduce: float | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: int = 0


class ControlGates(Measure):
    """Those of a control set: a relative rise of losses, a fall of other metrics; None: measured, not judged."""

    max_forgetting: float | None = None
    min_metric: float | None = None


class Params(Judged):
    controls: list[ControlGates]
    control_names: list[str]


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.evaluation import verdict

    progress("judging")
    rows, *controls = (json.loads((folder / "evaluation.json").read_text()) for folder in [inputs["rows"], *inputs["controls"]])
    found = verdict.judge(rows, named(params.control_names, controls, params.controls), gates(params))
    (out / "verdict.json").write_text(json.dumps(found, indent=1, allow_nan=False))
    (out / "coefficient.json").write_text(json.dumps(found["coefficient"]) + "\n")
    return {name: value for name, value in found.items() if name not in ("table", "passed")}


def gates(params: Judged) -> Gates:
    from buildsys.evaluation.verdict import Gates

    reduce = params.direction == "reduce"
    return Gates(metric(params), reduce, params.min_gain, params.min_metric, params.reduce, params.confidence, params.seed)


def named(names: Sequence[str], evaluations: Sequence[Evaluation], given: Sequence[ControlGates]) -> list[Control]:
    from buildsys.evaluation.verdict import Control

    each = zip(names, evaluations, given, strict=True)
    return [Control(name, one, metric(gate), gate.max_forgetting, gate.min_metric) for name, one, gate in each]


def metric(given: Measure) -> Metric:
    from buildsys.evaluation.metrics import Metric

    return Metric(given.metric, given.contains, given.regex)
