"""Which model each merge was made on, however far back: a forest, numbered once, so that every question takes one comparison."""

from __future__ import annotations

from buildsys.buildfile import Buildfile
from buildsys.tables import Merged, Source


class Lineage:
    """The merges of a file above their bases. A merge that is in a circle, which is reported as one, or above one has no place in it."""

    def __init__(self, file: Buildfile) -> None:
        self._roots: dict[str, str] = {}
        self._spans: dict[str, tuple[int, int]] = {}  # numbers in the order of a walk: of a model, and after all that are made on it
        made_on: dict[str, list[str]] = {}
        for name, merged in file.merged.items():
            made_on.setdefault(_base(file, name, merged), []).append(f"merged-{name}")
        merges = {f"merged-{name}" for name in file.merged}
        for root in made_on:
            if root not in merges:
                self._number(root, made_on)

    def _number(self, root: str, made_on: dict[str, list[str]]) -> None:
        walk = [(root, False)]
        while walk:
            model, left = walk.pop()
            if left:
                self._spans[model] = self._spans[model][0], len(self._spans)
                continue
            self._spans[model] = len(self._spans), 0
            self._roots[model] = root
            walk.append((model, True))
            walk += [(above, False) for above in made_on.get(model, ())]

    def root(self, model: str) -> str | None:
        """The base at the bottom, the model itself where nothing is below it; None in a circle."""
        return self._roots.get(model, None if model.startswith("merged-") and ":" not in model else model)

    def descends(self, model: str, other: str) -> bool:
        """True where a model is the other, or was made on it."""
        if model == other:
            return True
        if model not in self._spans or other not in self._spans:
            return False
        first, after = self._spans[other]
        return first <= self._spans[model][0] < after


def _base(file: Buildfile, name: str, merged: Merged) -> str:
    """The step of a merge's base."""
    if isinstance(merged.base, Source):
        return f"merged-{name}:base"
    known = file.known["base"]
    base = merged.base or (known[0] if len(known) == 1 else "")
    return base if base.startswith("merged-") else f"base-{base}"
