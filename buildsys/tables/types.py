"""Types that tables share: numbers within bounds, names, and how the branches of a union are told apart."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field

from buildsys.rules import Strict

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Limit = Annotated[float, Field(ge=0)]  # inf: none, where a default sets one
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


def bounded(limit: float | None) -> float | None:
    """A limit as a gate takes it: None for none."""
    return None if limit == math.inf else limit


def shape(given: Any) -> str:
    """Which branch of a union is meant, spelt as `buildfile` expects the names of branches."""
    return "list[entries]" if isinstance(given, list) else "dict[table]" if isinstance(given, dict | Strict) else "str"
