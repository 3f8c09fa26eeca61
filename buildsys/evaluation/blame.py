"""Which vectors of a merge spoil a metric: the merge without each of them, and without pairs. Arithmetic on recorded numbers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

from buildsys.evaluation.intervals import estimated
from buildsys.evaluation.metrics import Evaluation, Metric
from buildsys.evaluation.verdict import gain_formula, value

PAIRED = 6  # vectors whose pairs are looked at: those that cost most


def blame(
    measure: Callable[[frozenset[int]], Any], n: int, metric: Metric, reduce: bool, half: Evaluation, confidence: float, seed: int
) -> dict[str, Any]:
    """Costs by leave-one-out, then by leaving out pairs: how much better the metric is without them. As JSON, the costliest first.

    reduce   True where less of the metric is better
    measure  the numbers of the merge without these positions; all of them left out is the base
    half     what an evaluation has beside its numbers

    A cost is significant where its interval excludes zero. `extra` of a pair is what it costs beyond its two vectors by themselves.
    """
    gain, everyone = gain_formula(metric, reduce), frozenset(range(n))

    def asked(without: frozenset[int]) -> Evaluation:
        return {**half, "numbers": [measure(without)]}

    def ratio(without: frozenset[int]) -> Any:
        return metric.of(asked(without), 0)

    full = ratio(frozenset())

    def cost(without: frozenset[int]) -> dict[str, Any]:
        found = estimated(gain, [full, ratio(without)], confidence, seed)
        return {"cost": found.value, "cost_interval": [found.low, found.high], "significant": found.low > 0}

    ones = [{"vector": at, **cost(frozenset({at}))} for at in range(n)] if n > 1 else []
    ones.sort(key=lambda row: -row["cost"])
    alone = {row["vector"]: row["cost"] for row in ones}
    pairs: list[dict[str, Any]] = []
    for one, other in combinations(sorted(row["vector"] for row in ones[:PAIRED]), 2) if n > 2 else ():
        found = cost(frozenset({one, other}))
        pairs.append({"vectors": [one, other], **found, "extra": found["cost"] - alone[one] - alone[other]})
    pairs.sort(key=lambda row: -row["cost"])
    values = {"base": value(metric, asked(everyone), 0), "merged": value(metric, asked(frozenset()), 0)}
    return {"metric": metric.name, "n": len(full.numerator), **values, "vectors": ones, "pairs": pairs}
