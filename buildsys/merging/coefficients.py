"""A coefficient as a recipe says it, and what it comes to in one tensor: a number, a list over depth, a table of patterns. No numpy."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from buildsys.errors import BuildError

Coefficient = float | list[float] | dict[str, Any]
"""A number; its course from the first to the last layer; or for each pattern of tensor names one of the two."""

_LAYER = re.compile(r"\.(\d+)\.")
_BEFORE = ("embed_tokens", "wte", "wpe", "embed_in", "word_embeddings", "embedding")


def problem(given: Any) -> str:
    """What is wrong with a coefficient, in words; "" where nothing is."""
    if isinstance(given, dict):
        found = [f"pattern '{pattern}': {wrong}" for pattern, value in given.items() if (wrong := _problem_flat(value))]
        return found[0] if found else "" if given else "the table is empty"
    return _problem_flat(given)


def _problem_flat(given: Any) -> str:
    if isinstance(given, list):
        return "" if given and all(map(_is_number, given)) else "a list over depth holds numbers, at least one"
    return "" if _is_number(given) else "expected a number, 'auto', a list over depth, or a table of tensor patterns"


def _is_number(given: Any) -> bool:
    return isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)


def normal(given: Any) -> Coefficient:
    """The same with every number a float."""
    if isinstance(given, dict):
        return {pattern: normal(value) for pattern, value in given.items()}
    return [float(one) for one in given] if isinstance(given, list) else float(given)


def numbers(given: Any) -> list[float]:
    """Every number that it says."""
    if isinstance(given, dict):
        return [number for value in given.values() for number in numbers(value)]
    return [float(one) for one in given] if isinstance(given, list) else [float(given)] if _is_number(given) else []


class Depths:
    """Where each tensor of a model stands between its first and its last layer: 0 … 1.

    The layer is the first number in a tensor's name. Without one, embeddings stand at 0, and norms and heads at 1.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        layers = [int(found[1]) for name in self._names if (found := _LAYER.search(f".{name}."))]
        self._last = max(layers, default=0)

    def of(self, name: str) -> float:
        found = _LAYER.search(f".{name}.")
        if found:
            return int(found[1]) / self._last if self._last else 0.0
        return 0.0 if any(part in name for part in _BEFORE) else 1.0

    def check(self, given: Coefficient, label: str) -> None:
        """Raises BuildError for a pattern that no tensor has."""
        for pattern in given if isinstance(given, dict) else ():
            if not any(fnmatch.fnmatchcase(name, pattern) for name in self._names):
                facts = [("vector", label), ("tensors", f"{self._names[0]}, … ({len(self._names)})")]
                raise BuildError(f"pattern '{pattern}' matches no tensor", facts, "patterns are globs over whole names: '*.mlp.*'")


def at(given: Coefficient, name: str, depth: float) -> float:
    """What a coefficient comes to in one tensor.

    Of the patterns that match, the one with the most letters decides, whatever their order; a tensor that none matches gets 0. A list
    is spread evenly over the depth, straight lines between its numbers.
    """
    if isinstance(given, dict):
        fitting = [pattern for pattern in given if fnmatch.fnmatchcase(name, pattern)]
        if not fitting:
            return 0.0
        return at(given[min(fitting, key=lambda pattern: (-len(re.sub(r"[*?]", "", pattern)), pattern))], name, depth)
    return _along(given, depth) if isinstance(given, list) else given


def _along(anchors: Sequence[float], depth: float) -> float:
    place = depth * (len(anchors) - 1)
    left = min(int(place), len(anchors) - 2)
    if left < 0:
        return anchors[0]
    return anchors[left] + (anchors[left + 1] - anchors[left]) * (place - left)
