"""Evaluations + gates -> the coefficient to use and whether it holds. Plain arithmetic on recorded numbers, no model.

One half of the rows chooses the coefficient, the other half judges it: what was chosen for its luck on one half has none on the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from buildsys.errors import BuildError

Evaluation = Mapping[str, Any]
Statistic = Callable[[Sequence[int]], float]
CHOOSING, JUDGING = 0, 1
RESAMPLES = 1000


def judge(
    rows: Evaluation,
    controls: Sequence[tuple[str, Evaluation, float | None]],
    metric: str,
    min_gain: float,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """The verdict on one vector.

    rows      evaluation of the behaviour's held-out rows
    controls  (name, evaluation, gate): the gate is the relative rise of its loss that is still accepted, None for no gate
    metric    `preference`: gain is the rise of the share of rows with chosen above rejected, by mean log-probability
              `loss`: gain is the relative fall of the answer's loss

    Returns passed, coefficient (the one to use, or None), gain with its interval, forgetting, the metrics before and after, and a
    table with a row for each coefficient. A gain passes when it reaches min_gain and its interval excludes zero.
    """
    if metric == "preference" and "rejected" not in rows:
        raise BuildError("metric 'preference' needs rows with 'rejected'", hint='metric = "loss" judges answers alone')
    halves = [[row for row, half in enumerate(rows["half"]) if half == which] for which in (CHOOSING, JUDGING)]
    if not all(halves):
        facts = [("rows", str(len(rows["half"]))), ("to choose", str(len(halves[0]))), ("to judge", str(len(halves[1])))]
        raise BuildError("too few held-out rows to choose a coefficient and to judge it", facts, "give at least 20 rows")
    coefficients: list[float] = rows["coefficients"]
    measure = preference if metric == "preference" else answer_loss
    table = []
    for position, coefficient in enumerate(coefficients):
        forgetting = {name: relative_rise(control, position) for name, control, _ in controls}
        gain = {half: _gain(rows, metric, position)(halves[half]) for half in (CHOOSING, JUDGING)}
        kept = all(gate is None or forgetting[name] <= gate for name, _, gate in controls)
        table.append(
            {
                "coefficient": coefficient,
                metric: measure(rows, position)(range(len(rows["half"]))),
                "gain_choosing": gain[CHOOSING],
                "gain_judging": gain[JUDGING],
                "forgetting": forgetting,
                "within_gates": kept,
            }
        )
    # on equal gains the smaller coefficient comes first in the table, and stays
    candidates = [position for position in range(1, len(table)) if table[position]["within_gates"]]
    chosen = max(candidates, key=lambda position: (table[position]["gain_choosing"], -position), default=None)
    found: dict[str, Any] = {"passed": False, "coefficient": None, "metric": metric, "table": table}
    found["base"] = {metric: table[0][metric], **{f"{name} loss": answer_loss(c, 0)(_all(c)) for name, c, _ in controls}}
    if chosen is None:
        return found | {"reason": "every coefficient forgets more than max_forgetting allows"}
    statistic = _gain(rows, metric, chosen)
    low, high = interval(statistic, halves[JUDGING], confidence, seed)
    gain_judged = statistic(halves[JUDGING])
    passed = gain_judged >= min_gain and low > 0
    found |= {
        "passed": passed,
        "coefficient": coefficients[chosen],
        metric: table[chosen][metric],
        "gain": gain_judged,
        "gain_low": low,
        "gain_high": high,
        "forgetting": table[chosen]["forgetting"],
        "n": len(halves[JUDGING]),
    }
    if not passed:
        found["reason"] = "the interval of the gain includes zero" if low <= 0 else f"the gain is below min_gain = {min_gain:g}"
    return found


def preference(rows: Evaluation, position: int) -> Statistic:
    """The share of rows whose chosen answer has the higher mean log-probability."""
    above = [
        chosen / max(1.0, count) > rejected / max(1.0, other)
        for chosen, count, rejected, other in zip(
            rows["chosen"][position], rows["chosen_tokens"], rows["rejected"][position], rows["rejected_tokens"], strict=True
        )
    ]
    return lambda picked: sum(above[row] for row in picked) / len(picked)


def answer_loss(rows: Evaluation, position: int) -> Statistic:
    """Nats per answer token over the picked rows."""
    sums, counts = rows["chosen"][position], rows["chosen_tokens"]
    return lambda picked: -sum(sums[row] for row in picked) / max(1.0, sum(counts[row] for row in picked))


def relative_rise(rows: Evaluation, position: int) -> float:
    """How much the loss rises over the base's: 0.03 is 3%."""
    base, now = answer_loss(rows, 0)(_all(rows)), answer_loss(rows, position)(_all(rows))
    return now / base - 1


def _gain(rows: Evaluation, metric: str, position: int) -> Statistic:
    if metric == "preference":
        before, after = preference(rows, 0), preference(rows, position)
        return lambda picked: after(picked) - before(picked)
    before, after = answer_loss(rows, 0), answer_loss(rows, position)
    return lambda picked: 1 - after(picked) / before(picked)


def interval(statistic: Statistic, picked: Sequence[int], confidence: float, seed: int) -> tuple[float, float]:
    """The bootstrap interval of a statistic over rows, by percentiles (Efron 1979)."""
    generator = random.Random(seed)
    found = sorted(statistic(generator.choices(picked, k=len(picked))) for _ in range(RESAMPLES))
    tail = int(RESAMPLES * (1 - confidence) / 2)
    return found[tail], found[-1 - tail]


def _all(rows: Evaluation) -> Sequence[int]:
    return range(len(rows["half"]))
