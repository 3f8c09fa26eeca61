"""evaluations of a merged model, of each vector alone, of the base -> what the merge keeps and costs, and whether that is enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict
from buildsys.rules.judge import ControlGates, Measure, metric

VERSION = 1
ROLES = {
    "alone": "evaluation of each vector alone at the recipe's coefficient",
    "merged": "evaluation of the merged model on the same rows",
    "base_controls": "evaluation of the base on each control set",
    "controls": "evaluation of the merged model on each control set",
}
PRELOAD = ()
FLUSH = False
VALUES = ("checks.json",)


class Params(Strict):
    behaviours: list[Measure]
    names: list[str]
    controls: list[ControlGates]
    control_names: list[str]
    max_loss_of_gain: float | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: int = 0


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.evaluation import composed, verdict

    progress("checking")
    alone, merged, before, after = (_read(inputs[role]) for role in ("alone", "merged", "base_controls", "controls"))
    behaviours = [
        composed.Composed(name, metric(one), own, together)
        for name, one, own, together in zip(params.names, params.behaviours, alone, merged, strict=True)
    ]
    controls = [
        verdict.Control(name, _both(base, now), metric(gate), gate.max_forgetting, gate.min_metric)
        for name, gate, base, now in zip(params.control_names, params.controls, before, after, strict=True)
    ]
    found = composed.check(behaviours, controls, params.max_loss_of_gain, params.confidence, params.seed)
    (out / "checks.json").write_text(json.dumps(found, indent=1, allow_nan=False))
    return {"kept": {row["name"]: row["kept"] for row in found["behaviours"] if "kept" in row}}


def _read(folders: list[Path]) -> list[dict[str, Any]]:
    return [json.loads((folder / "evaluation.json").read_text()) for folder in folders]


def _both(base: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The evaluation of a control set at the base and at the merged model."""
    return {**base, "numbers": [base["numbers"][0], now["numbers"][0]]}
