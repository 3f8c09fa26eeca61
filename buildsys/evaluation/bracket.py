"""The search for a coefficient: small, growing, until quality breaks; then between the last that held and the first that broke."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

CLOSE = 1.15  # the ratio of two neighbours that are not worth another evaluation


@dataclass(frozen=True)
class Point:
    """gain   on the rows that choose
    holds  True where every gate on what must not change is kept
    """

    gain: float
    holds: bool


def search(measure: Callable[[float], Point], start: float, most: float, budget: int) -> list[float]:
    """The coefficients that were tried, growing; `measure` is asked for each of them once.

    Doubles from `start` while gates hold and the gain grows, but not beyond `most`; where `start` itself breaks, halves it instead.
    Then it halves the wider of the gaps above and below the best coefficient, until both are narrow.
    """
    tried: dict[float, Point] = {}

    def best() -> float | None:
        held = [at for at, point in tried.items() if point.holds]
        return max(held, key=lambda at: (tried[at].gain, -at), default=None)

    at = start
    while len(tried) < budget:
        leader = best()
        tried[at] = measure(at)
        if not tried[at].holds:
            if leader is not None or at <= start / 16:
                break
            at /= 2
        elif at < start or at >= most or (leader is not None and tried[at].gain <= tried[leader].gain and tried[at].gain > 0):
            break
        else:
            at = min(2 * at, most)
    while len(tried) < budget and (middle := _gap(tried, best(), start / 16)) is not None:
        tried[middle] = measure(middle)
    return sorted(tried)


def _gap(tried: dict[float, Point], leader: float | None, least: float) -> float | None:
    """The middle of the wider gap beside the best coefficient; None where both are narrow. Below the smallest is room down to `least`."""
    if leader is None:
        return None
    above, below = min((at for at in tried if at > leader), default=None), max((at for at in tried if at < leader), default=None)
    if below is None and leader > 2 * least:
        below = leader / 3
    gaps = [(low, high) for low, high in ((leader, above), (below, leader)) if low and high and high / low > CLOSE]
    return max(((high / low, round((low + high) / 2, 4)) for low, high in gaps), default=(0.0, None))[1]
