"""evaluations + gates -> a coefficient and a verdict. Reads numbers only: a changed gate evaluates nothing again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES = {"rows": "evaluation of the behaviour's held-out rows", "controls": "evaluation of each control set"}
PRELOAD = ()
FLUSH = False
VALUES = ("verdict.json",)


class Params(Strict):
    metric: Literal["preference", "loss"]
    min_gain: float
    max_forgetting: list[float | None]  # relative rise of each control set's loss; None: measured, not judged
    controls: list[str]
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: int = 0


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.evaluation import verdict

    progress("judging")
    rows = json.loads((inputs["rows"] / "evaluation.json").read_text())
    controls = [json.loads((folder / "evaluation.json").read_text()) for folder in inputs["controls"]]
    gates = list(zip(params.controls, controls, params.max_forgetting, strict=True))
    found = verdict.judge(rows, gates, params.metric, params.min_gain, params.confidence, params.seed)
    (out / "verdict.json").write_text(json.dumps(found, indent=1))
    (out / "coefficient.json").write_text(json.dumps(found["coefficient"]) + "\n")
    return {name: value for name, value in found.items() if name not in ("table", "passed")}
