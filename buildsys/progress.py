"""What a long computation tells while it runs, and where it may keep what a killed run goes on from. Draws nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildsys import marks


@dataclass(frozen=True)
class Progress:
    """What a running rule tells, and the folder it may keep checkpoints in: a killed run finds them again.

    settings  what steers a run without deciding its result
    cache     the cache that the folder is in; None: the folder is nobody else's, and its files need no secret
    """

    folder: Path
    report: Callable[[str, float | None], None]  # (what is going on, share done or None)
    settings: Mapping[str, Any]
    cache: Path | None = None

    def __call__(self, text: str, share: float | None = None) -> None:
        self.report(text, share)

    @property
    def marks(self) -> marks.Marks:
        """What tells a file in `folder` that an earlier run kept from one that somebody else put there."""
        return marks.Marks(b"") if self.cache is None else marks.of_cache(str(self.cache))
