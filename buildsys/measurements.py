"""What was measured once is not measured again: numbers by the hash of all that decides them. Rules read them, the store adopts them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from buildsys.action import canonical_bytes, digest_of
from buildsys.progress import Progress

FOLDER = "measurements"


class Measurements:
    """known  measurements of earlier actions, never written here; None: there are none, or they are not to be used
    new       those of this action: they outlive a killed run, and are adopted once the action is recorded
    """

    def __init__(self, known: Path | None, new: Path) -> None:
        self._known, self._new = known, new
        self.made = 0

    @classmethod
    def of(cls, progress: Progress) -> Measurements:
        """Those that a rule may use: settings name the store's."""
        known = progress.settings.get(FOLDER)
        return cls(Path(known) if known else None, progress.folder / FOLDER)

    def get(self, document: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """The numbers of a document: known, or measured now and kept. They are JSON: finite, no more than that.

        document  everything that decides the numbers, as `action.canonical_bytes` takes it
        """
        name = place(document)
        for folder in (self._known, self._new):
            found = None if folder is None else read(folder / name, document)
            if found is not None:
                return found
        numbers = measure()
        self.made += 1
        target = self._new / name
        target.parent.mkdir(parents=True, exist_ok=True)
        being_written = target.with_name(f"{target.name}.{os.getpid()}")
        being_written.write_bytes(_spelt(document, numbers))
        being_written.replace(target)
        return numbers

    def known(self, document: Mapping[str, Any]) -> bool:
        """True where `get` would measure nothing."""
        name = place(document)
        return any(folder is not None and read(folder / name, document) is not None for folder in (self._known, self._new))


def place(document: Mapping[str, Any]) -> str:
    """Where the numbers of a document stand inside a folder of measurements."""
    key = digest_of(canonical_bytes(document))
    return f"{key[:2]}/{key[2:]}.json"


def read(path: Path, document: Mapping[str, Any]) -> Any:
    """The numbers in a file; None where there is none, or where it was damaged or is about something else."""
    try:
        given = json.loads(path.read_bytes())
        sound = given["check"] == _check(given["document"], given["numbers"]) and given["document"] == json.loads(canonical_bytes(document))
        return given["numbers"] if sound else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sound(path: Path) -> bool:
    """True for a file of numbers that is what it was when it was written."""
    try:
        given = json.loads(path.read_bytes())
        return bool(given["check"] == _check(given["document"], given["numbers"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _spelt(document: Mapping[str, Any], numbers: Any) -> bytes:
    return json.dumps({"document": document, "numbers": numbers, "check": _check(document, numbers)}).encode()


def _check(document: Any, numbers: Any) -> str:
    return digest_of(canonical_bytes([document, numbers]))
