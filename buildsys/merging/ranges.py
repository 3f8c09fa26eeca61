"""What an option of a merge method may be. No numpy, no torch: a plan reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Range:
    """The numbers that an option accepts."""

    low: float
    high: float
    low_included: bool = True

    def __contains__(self, value: float) -> bool:
        return (value >= self.low if self.low_included else value > self.low) and value <= self.high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return "a finite number" if math.isinf(self.low) else f"a number {'from' if self.low_included else 'above'} {self.low:g}"
        return f"a number in {'[' if self.low_included else '('}{self.low:g}, {self.high:g}]"


fraction = Range(0, 1, low_included=False)
share = Range(0, 1)
finite = Range(-math.inf, math.inf)
positive = Range(0, math.inf, low_included=False)
count = Range(1, math.inf)

Elect = Literal["none", "mass", "count"]
Mean = Literal["sum", "count", "coefficient"]
