"""Evaluations + gates -> the coefficient to use and whether it holds. Arithmetic on recorded numbers, no model.

One half of the rows chooses the coefficient, the other half judges it: what was chosen for its luck on one half has none on the other.
Every gate is judged by the end of an interval that is worse for the vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy

from buildsys.errors import BuildError
from buildsys.evaluation.intervals import (
    Estimate,
    Formula,
    Ratio,
    difference,
    estimated,
    level,
    odds_factor,
    relative_fall,
    rows_needed,
)
from buildsys.evaluation.metrics import Evaluation, Metric, margins
from buildsys.evaluation.names import FALLING, FEWEST_ROWS, SHARES

CHOOSING, JUDGING = 0, 1


@dataclass(frozen=True)
class Gates:
    """What a vector has to reach on its own rows.

    reduce      True where the behaviour is to become rarer: gains are falls, and coefficients are negative
    min_gain    of the metric: absolute for shares and means, relative for losses
    min_metric  the metric itself, None: any
    odds        by what factor its odds must fall, None: any
    confidence  of every interval; seed: of the resampling
    """

    metric: Metric
    reduce: bool = False
    min_gain: float = 0.0
    min_metric: float | None = None
    odds: float | None = None
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Control:
    """What a vector must leave alone: its worsening is relative for losses, absolute for shares and means."""

    name: str
    evaluation: Evaluation
    metric: Metric
    max_forgetting: float | None = None
    min_metric: float | None = None


def judge(rows: Evaluation, controls: Sequence[Control], gates: Gates) -> dict[str, Any]:
    """The verdict on one vector, as JSON: passed; coefficient (the one to use, or None); reason where it did not pass; the figures of that
    coefficient with their intervals; and a table with a row for each coefficient that was tried.
    """
    metric, half = gates.metric, rows["half"]
    halves = {which: [row for row, own in enumerate(half) if own == which] for which in (CHOOSING, JUDGING)}
    fewest = min(map(len, halves.values()))
    if fewest < FEWEST_ROWS:
        facts = [("rows", str(len(half))), ("to choose", str(len(halves[CHOOSING]))), ("to judge", str(len(halves[JUDGING])))]
        hint = f"give at least {4 * FEWEST_ROWS} rows: a coefficient is chosen on one half and judged on the other"
        raise BuildError("too few held-out rows for any interval", facts, hint)
    table = [_tried(rows, controls, gates, halves, position) for position in range(len(rows["coefficients"]))]
    found: dict[str, Any] = {
        "passed": False,
        "coefficient": None,
        "metric": metric.name,
        "direction": "reduce" if gates.reduce else "raise",
    }
    found |= {"confidence": gates.confidence, "table": table}
    found["gates"] = {"min_gain": gates.min_gain, "min_metric": gates.min_metric, "reduce": gates.odds}
    found["gates"]["max_forgetting"] = {one.name: one.max_forgetting for one in controls}
    found["base"] = {
        metric.name: table[0][metric.name],
        **{f"{c.name} {c.metric.name}": value(c.metric, c.evaluation, 0) for c in controls},
    }
    failed = failing(controls)
    if failed:
        return found | {"reason": failed}
    candidates = [position for position in range(1, len(table)) if table[position]["within_gates"]]
    if not candidates:
        return found | {"reason": "every coefficient forgets more than its gates allow"}
    # on equal gains the smaller coefficient comes first in the table, and stays
    chosen = max(candidates, key=lambda position: (table[position]["gain_choosing"], -position))
    row = table[chosen]
    gain = _estimate(row["gain_interval"], row["gain"], len(halves[JUDGING]))
    found |= {
        "coefficient": row["coefficient"],
        metric.name: row[metric.name],
        f"{metric.name}_interval": row[f"{metric.name}_interval"],
        "gain": gain.value,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "forgetting": row["forgetting"],
        "forgetting_interval": row["forgetting_interval"],
        "n": gain.n,
    }
    if "odds_factor" in row:
        found |= {"odds_factor": row["odds_factor"], "odds_factor_interval": row["odds_factor_interval"]}
    reason = _shortfall(gates, table[0][metric.name], gain, row)
    return found | ({"reason": reason} if reason else {"passed": True})


def _tried(rows: Evaluation, controls: Sequence[Control], gates: Gates, halves: Mapping[int, list[int]], position: int) -> dict[str, Any]:
    """One row of the table: the metric over all rows, its gain on either half, and what the controls lost."""
    metric = gates.metric
    whole = [metric.of(rows, 0), metric.of(rows, position)]
    judged = [ratio.picked(halves[JUDGING]) for ratio in whole]
    choosing = gain_formula(metric, gates.reduce)(*(numpy.float64(ratio.picked(halves[CHOOSING]).value) for ratio in whole))
    gain = estimated(gain_formula(metric, gates.reduce), judged, gates.confidence, gates.seed)
    now = estimated(_formula(metric), whole[1:], gates.confidence, gates.seed)
    row: dict[str, Any] = {
        "coefficient": rows["coefficients"][position],
        metric.name: now.value,
        f"{metric.name}_interval": [now.low, now.high],
    }
    if metric.name == "preference":
        margin = estimated(level, [Ratio.of(margins(rows, position))], gates.confidence, gates.seed)
        row |= {"margin": margin.value, "margin_interval": [margin.low, margin.high]}
    row["judged_low"] = estimated(_formula(metric), judged[1:], gates.confidence, gates.seed).low
    row |= {"n": now.n, "gain_choosing": float(choosing), "gain": gain.value, "gain_interval": [gain.low, gain.high]}
    if gates.reduce and metric.name in SHARES:
        factor = estimated(partial(odds_factor, n=gain.n), judged, gates.confidence, gates.seed)
        row |= {"odds_factor": factor.value, "odds_factor_interval": [factor.low, factor.high]}
    row |= {"forgetting": {}, "forgetting_interval": {}, "within_gates": True}
    for control in controls:
        lost = forgetting(control, position, gates)
        row["forgetting"][control.name] = lost.value
        row["forgetting_interval"][control.name] = [lost.low, lost.high]
        row["within_gates"] &= control.max_forgetting is None or lost.high <= control.max_forgetting
        row["within_gates"] &= control.min_metric is None or held(control, position, gates).low >= control.min_metric
    return row


def _shortfall(gates: Gates, before: float, gain: Estimate, row: Mapping[str, Any]) -> str:
    """Why the chosen coefficient does not pass, or ""."""
    least, metric = gates.min_gain, gates.metric.name
    room = before if gates.reduce else 1 - before
    if metric in SHARES and least > room:
        return f"the base is at {before:.3f} already: min_gain = {least:g} is out of reach"
    if not (gain.value >= least and gain.value > 0):
        return f"the gain is below min_gain = {least:g}" if least else "there is no gain"
    if not (gain.low >= least and gain.low > 0):
        needed = rows_needed(gain, least)
        enough = f"; about {2 * needed} rows in all would do, if it stays" if needed else ""
        return f"the interval of the gain reaches {gain.low:+.3f}, {'below min_gain' if least else 'so it may be none'}{enough}"
    if gates.min_metric is not None and not row["judged_low"] >= gates.min_metric:
        return f"the interval of {metric} reaches {row['judged_low']:.3f} on the rows that judge, below min_metric = {gates.min_metric:g}"
    if gates.odds is not None and not row["odds_factor_interval"][0] >= gates.odds:
        return (
            f"the odds fall {row['odds_factor']:.1f} times, by the interval {row['odds_factor_interval'][0]:.1f}; reduce = {gates.odds:g}"
        )
    return ""


def failing(controls: Sequence[Control]) -> str:
    """Which control set the base itself fails, or "": forgetting cannot be measured on what was never known."""
    for control in controls:
        known = value(control.metric, control.evaluation, 0)
        words = control.evaluation["numbers"][0].get("vocabulary")
        if control.metric.name == "loss" and words and known >= math.log(words):
            return f"the base fails control set '{control.name}': its loss is {known:.2f}, that of a guess {math.log(words):.2f}"
        if control.min_metric is not None and known < control.min_metric:
            return (
                f"the base fails control set '{control.name}': its {control.metric.name} is {known:.3f}, min_metric {control.min_metric:g}"
            )
    return ""


def gain_formula(metric: Metric, reduce: bool) -> Formula:
    """How much better the metric became: relative for losses, absolute for the others; worse, where it is to be reduced."""
    if metric.name == "perplexity":
        return lambda before, after: (numpy.exp(after - before) - 1) if reduce else (1 - numpy.exp(after - before))
    plain = relative_fall if metric.name == "loss" else difference
    return (lambda before, after: 0.0 - plain(before, after)) if reduce else plain


def forgetting(control: Control, position: int, gates: Gates) -> Estimate:
    """How much worse a control set became: 0.03 is 3% more loss, or three points less of a share."""
    if control.metric.name in FALLING and control.metric.of(control.evaluation, 0).value <= 0:
        raise BuildError(f"the base's loss on control set '{control.name}' is 0", hint="a rise of it has no measure; take other rows")
    pair = [control.metric.of(control.evaluation, 0), control.metric.of(control.evaluation, position)]
    return estimated(gain_formula(control.metric, True), pair, gates.confidence, gates.seed)


def held(control: Control, position: int, gates: Gates) -> Estimate:
    return estimated(_formula(control.metric), [control.metric.of(control.evaluation, position)], gates.confidence, gates.seed)


def _formula(metric: Metric) -> Formula:
    return numpy.exp if metric.name == "perplexity" else level


def value(metric: Metric, evaluation: Evaluation, position: int) -> float:
    return float(_formula(metric)(numpy.float64(metric.of(evaluation, position).value)))


def _estimate(bounds: Sequence[float], value: float, n: int) -> Estimate:
    return Estimate(value, bounds[0], bounds[1], n)
