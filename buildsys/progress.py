"""What a long computation tells while it runs, and where it may keep what a killed run goes on from. Draws nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Progress:
    """What a running rule tells, and the folder it may keep checkpoints in: a killed run finds them again."""

    folder: Path
    report: Callable[[str, float | None], None]  # (what is going on, share done or None)
    settings: Mapping[str, Any]  # what steers a run without deciding its result

    def __call__(self, text: str, share: float | None = None) -> None:
        self.report(text, share)
