"""The search for a merge's coefficients by what each choice keeps and costs. Knows no model: it asks for outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

Coefficients = tuple[float, ...]
SMALLEST_STEP = 1 / 32


@dataclass(frozen=True)
class Outcome:
    """kept    for each behaviour the share of its gain that is left
    margins  the same of its mean margin (of the metric itself, where that is no share): goes on growing where `kept` is full
    used     for each control set what it lost, as a share of what it may lose; 0 where nothing is asked
    """

    kept: Sequence[float]
    margins: Sequence[float]
    used: Sequence[float]

    @property
    def merit(self) -> tuple[float, float]:
        """Larger is better: first that no limit is passed, then how much is kept, the worst behaviour counting twice."""
        kept = [min(1.0, one) for one in self.kept]
        margins = mean(min(1.0, one) for one in self.margins) if self.margins else 0.0
        return -max(0.0, *(one - 1 for one in self.used), 0.0), min(kept) + mean(kept) + 0.25 * margins


def tune(measure: Callable[[Coefficients], Outcome], start: Coefficients, budget: int) -> Coefficients:
    """The best coefficients of at most `budget` outcomes: all together first, then one after another, in steps that become smaller.

    A compass search (Kolda et al. 2003) over factors of the start: signs stay as they are, and one that is 0 stays 0.
    """
    outcomes: dict[Coefficients, Outcome] = {}

    def merit(at: Coefficients) -> tuple[float, float]:
        if at not in outcomes:
            outcomes[at] = measure(at)
        return outcomes[at].merit

    best, step = start, 0.25
    merit(best)
    together = [tuple(range(len(start)))] if len(start) > 1 else []
    while step >= SMALLEST_STEP:
        improved = False
        for which in [*together, *((one,) for one in _worst_first(outcomes[best]))]:
            for factor in _factors(outcomes[best], step):
                other = tuple(round(x * factor, 4) if at in which else x for at, x in enumerate(best))
                if other not in outcomes and len(outcomes) >= budget:
                    return best
                if merit(other) > merit(best):
                    best, improved = other, True
                    break
        if not improved:
            step /= 2
    return best


def _worst_first(found: Outcome) -> list[int]:
    return sorted(range(len(found.kept)), key=lambda at: found.kept[at])


def _factors(found: Outcome, step: float) -> list[float]:
    """Where to go first: down while a limit is passed, else up."""
    return [1 - step, 1 + step] if any(one > 1 for one in found.used) else [1 + step, 1 - step]
