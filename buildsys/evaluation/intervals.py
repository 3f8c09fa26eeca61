"""From numbers of rows to a metric with its interval: ratios of sums, resampled over rows. Knows no model and no gate."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from buildsys.errors import BuildError
from buildsys.tensors.arrays import Array

RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """A metric as Σ numerator ÷ Σ denominator over rows: a share, a mean, a loss per token.

    numerator, denominator  (rows,)
    share                   True where every row counts 0 or 1 of 1
    """

    numerator: Array
    denominator: Array
    share: bool = False

    @classmethod
    def of(cls, numerator: Sequence[float], denominator: Sequence[float] | None = None, *, share: bool = False) -> Ratio:
        top = numpy.asarray(numerator, numpy.float64)
        share = share or (denominator is None and bool(numpy.isin(top, (0.0, 1.0)).all()))
        return cls(top, numpy.ones_like(top) if denominator is None else numpy.asarray(denominator, numpy.float64), share)

    def picked(self, rows: Sequence[int]) -> Ratio:
        at = numpy.asarray(rows, numpy.int64)
        return Ratio(self.numerator[at], self.denominator[at], self.share)

    @property
    def value(self) -> float:
        return float(self.numerator.sum() / max(1.0, float(self.denominator.sum())))


@dataclass(frozen=True)
class Estimate:
    """A figure, and between which bounds it lies with the confidence that was asked for."""

    value: float
    low: float
    high: float
    n: int

    def json(self) -> dict[str, float | int]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


Formula = Callable[..., Array]


def estimated(formula: Formula, ratios: Sequence[Ratio], confidence: float, seed: int) -> Estimate:
    """formula(values of the ratios) and its percentile bootstrap interval over rows (Efron 1979); ratios are paired row by row.

    formula  of one array for each ratio, elementwise

    Shares get two more rows that speak for the figure and two that speak against it, after Agresti and Coull (1998): four rows of four that
    all moved one way are chance as often as one time in sixteen, and a plain bootstrap would call them certain.
    """
    n = len(ratios[0].numerator)
    with numpy.errstate(all="ignore"):
        value = float(formula(*(numpy.float64(one.value) for one in ratios)))
    pairs = [(one.numerator, one.denominator) for one in ratios]
    if all(one.share for one in ratios):
        extra = numpy.array([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
        pairs = [
            (numpy.concatenate([top, extra[at % 2]]), numpy.concatenate([bottom, numpy.ones(4)])) for at, (top, bottom) in enumerate(pairs)
        ]
    rows = _resampled(len(pairs[0][0]), seed)
    with numpy.errstate(all="ignore"):
        found = formula(*(top[rows].sum(1) / numpy.maximum(1.0, bottom[rows].sum(1)) for top, bottom in pairs))
    if not (math.isfinite(value) and numpy.isfinite(found).all()):
        raise BuildError(
            "a metric is no finite number", [("found", str(value))], "a loss of 0 has no relative gain; a judge's numbers must add up"
        )
    tail = (1 - confidence) / 2
    low, high = (float(one) for one in numpy.quantile(found, [tail, 1 - tail], method="inverted_cdf"))
    wider = 1.0 if len(pairs[0][0]) > n else _student(n, confidence)
    return Estimate(value, min(value, value - (value - low) * wider), max(value, value + (high - value) * wider), n)


def _student(n: int, confidence: float) -> float:
    """By how much a percentile interval of few rows is too narrow: t ÷ z and √(n ÷ (n − 1)) (Hesterberg 2015); t by Cornish and Fisher."""
    z, freedom = statistics.NormalDist().inv_cdf((1 + confidence) / 2), max(1, n - 1)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return t / z * math.sqrt(n / freedom)


def _resampled(n: int, seed: int) -> Array:
    """(RESAMPLES, n) row numbers drawn with replacement: the same for every metric of as many rows.

    From raw bits of PCG64, whose stream numpy keeps (NEP 19), by the upper half of a product (Lemire 2019).
    """
    bits = numpy.random.PCG64(seed).random_raw(RESAMPLES * n) >> numpy.uint64(32)
    return ((bits * numpy.uint64(n)) >> numpy.uint64(32)).astype(numpy.int64).reshape(RESAMPLES, n)


def level(values: Array) -> Array:
    return values


def difference(before: Array, after: Array) -> Array:
    return after - before


def relative_fall(before: Array, after: Array) -> Array:
    return 1 - after / before


def odds_factor(before: Array, after: Array, n: int) -> Array:
    """How many times lower the odds are afterwards; half a row is added to each side, so that none is infinite (Haldane 1956)."""
    half = 0.5 / n
    return ((before + half) / (1 - before + half)) / ((after + half) / (1 - after + half))


def rows_needed(estimate: Estimate, bound: float) -> int | None:
    """About how many rows would bring the lower bound to `bound`, if the figure stays; None where no number would."""
    room, width = estimate.value - bound, estimate.value - estimate.low
    return None if room <= 0 or width <= 0 else int(numpy.ceil(estimate.n * (width / room) ** 2))
