"""What a merge keeps of each behaviour, and what it costs: a merged model against each vector alone. Arithmetic on recorded numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from buildsys.evaluation.intervals import Estimate, estimated, rows_needed
from buildsys.evaluation.metrics import Evaluation, Metric
from buildsys.evaluation.verdict import Control, Gates, failing, forgetting, gain_formula, held, value
from buildsys.tensors.arrays import Array


@dataclass(frozen=True)
class Composed:
    """One behaviour of a merge.

    alone   evaluation at coefficients 0 and the recipe's own
    merged  the numbers of the merged model on the same rows
    """

    name: str
    metric: Metric
    alone: Evaluation
    merged: Evaluation


def check(
    behaviours: Sequence[Composed], controls: Sequence[Control], max_loss_of_gain: float | None, confidence: float, seed: int
) -> dict[str, Any]:
    """The verdict on a merge, as JSON: for every behaviour what alone and merged it gains and what share of that is kept, for every control
    set what it lost; passed, and the reason where it did not.

    A share is judged by the worse end of its interval. A vector whose own gain may be none has nothing that could be kept: it is `judged:
    false`, and said.
    """
    gates = Gates(Metric("loss"), confidence=confidence, seed=seed)
    found = [kept(one, confidence, seed) for one in behaviours]
    reasons = []
    for row in found:
        row["passed"] = not row["judged"] or max_loss_of_gain is None or row["kept_interval"][0] >= 1 - max_loss_of_gain
        if not row["passed"]:
            assert max_loss_of_gain is not None
            low = row["kept_interval"][0]
            needed = rows_needed(Estimate(row["kept"], low, row["kept_interval"][1], row["n"]), 1 - max_loss_of_gain)
            enough = f" (about {needed} rows would do, if it stays)" if needed else ""
            reasons.append(f"'{row['name']}' keeps {row['kept']:.0%} of its gain, by the interval {low:.0%}{enough}")
    lost = []
    failed = failing(controls)
    reasons += [failed] if failed else []
    for control in controls:
        worse = forgetting(control, 1, gates)
        level = held(control, 1, gates)
        enough_left = control.min_metric is None or level.low >= control.min_metric
        passed = enough_left and (control.max_forgetting is None or worse.high <= control.max_forgetting)
        lost.append({"name": control.name, "metric": control.metric.name, "forgetting": worse.value, "n": worse.n, "passed": passed})
        lost[-1] |= {"forgetting_interval": [worse.low, worse.high], "max_forgetting": control.max_forgetting}
        if not enough_left:
            reasons.append(f"control set '{control.name}' is at {level.value:.3f}, by the interval {level.low:.3f}, below min_metric")
        elif not passed:
            reasons.append(f"control set '{control.name}' is {worse.value:.1%} worse, by the interval {worse.high:.1%}")
    verdict = {"passed": not reasons, "confidence": confidence, "max_loss_of_gain": max_loss_of_gain, "behaviours": found, "controls": lost}
    return verdict | ({"reason": "; ".join(reasons)} if reasons else {})


def kept(one: Composed, confidence: float, seed: int) -> dict[str, Any]:
    """A behaviour's figures alone and merged, and the share of its gain that is kept; paired row by row."""
    base, alone, merged = one.metric.of(one.alone, 0), one.metric.of(one.alone, 1), one.metric.of(one.merged, 0)
    gain = gain_formula(one.metric, False)
    own = estimated(gain, [base, alone], confidence, seed)
    both = estimated(gain, [base, merged], confidence, seed)
    judged = own.low > 0 or own.high < 0
    row: dict[str, Any] = {"name": one.name, "metric": one.metric.name, "n": own.n, "judged": judged}
    values = [value(one.metric, one.alone, 0), value(one.metric, one.alone, 1), value(one.metric, one.merged, 0)]
    row |= dict(zip(("base", "alone", "merged"), values, strict=True))
    row |= _named("gain_alone", own) | _named("gain_merged", both)
    if judged:
        row |= _named("kept", estimated(lambda b, a, m: _share(gain(b, a), gain(b, m)), [base, alone, merged], confidence, seed))
    return row


def _share(alone: Array, merged: Array) -> Array:
    """What is left of a gain; of a resample in which there was none, all of it."""
    return numpy.where(numpy.abs(alone) > 1e-9, merged / numpy.where(numpy.abs(alone) > 1e-9, alone, 1.0), 1.0)


def _named(name: str, found: Estimate) -> dict[str, Any]:
    return {name: found.value, f"{name}_interval": [found.low, found.high]}
