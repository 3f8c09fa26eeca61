"""What was measured once is not measured again: numbers by the hash of all that decides them. Rules read them, the store adopts them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from buildsys import files
from buildsys.action import canonical_bytes, digest_of
from buildsys.marks import Marks, without_mark
from buildsys.progress import Progress

FOLDER = "measurements"
FORMAT = 2  # 1 had a checksum in place of a mark
_KIND = "measurement"  # of a mark


class Measurements:
    """known  measurements of earlier actions, never written here; None: there are none, or they are not to be used
    new       those of this action: they outlive a killed run, and are adopted once the action is recorded
    """

    def __init__(self, known: Path | None, new: Path, marks: Marks) -> None:
        self._known, self._new, self._marks = known, new, marks
        self.made = 0

    @classmethod
    def of(cls, progress: Progress) -> Measurements:
        """Those that a rule may use: settings name the store's."""
        known = progress.settings.get(FOLDER)
        return cls(Path(known) if known else None, progress.folder / FOLDER, progress.marks)

    def get(self, document: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """The numbers of a document: known, or measured now and kept. They are JSON: finite, no more than that.

        document  everything that decides the numbers, as `action.canonical_bytes` takes it
        """
        name = place(document)
        for folder in (self._known, self._new):
            numbers = None if folder is None else read(folder, name, self._marks)
            if numbers is not None:
                return numbers
        numbers = measure()
        self.made += 1
        write(self._new, name, document, numbers, self._marks)
        return numbers

    def known(self, document: Mapping[str, Any]) -> bool:
        """True where `get` would measure nothing."""
        name = place(document)
        return any(folder is not None and read(folder, name, self._marks) is not None for folder in (self._known, self._new))


def place(document: Mapping[str, Any]) -> str:
    """Where the numbers of a document stand inside a folder of measurements."""
    key = digest_of(canonical_bytes(document))
    return f"{key[:2]}/{key[2:]}.json"


def read(folder: Path, name: str, marks: Marks) -> Any:
    """The numbers in a file; None where there is none, or one without a valid mark. Raises BuildError for a link."""
    try:
        content = marks.content(_KIND, name, files.read(folder / name))
        return None if content is None else checked(name, content)[1]
    except (OSError, ValueError):
        return None


def write(folder: Path, name: str, document: Mapping[str, Any], numbers: Any, marks: Marks) -> None:
    """Keep the numbers of a document, marked."""
    canonical_bytes(numbers)  # refuses what is not a finite number, a text, or a list of these
    text = json.dumps({"format": FORMAT, "document": document, "numbers": numbers}, separators=(",", ":")).encode()
    path = folder / name
    files.make_folder(path.parent)
    files.write_whole(path, marks.sealed(_KIND, name, text), flush=False)


def unmarked(folder: Path, name: str) -> tuple[Mapping[str, Any], Any]:
    """What a file says, whoever wrote it. Raises OSError where it cannot be read, ValueError where it does not belong at this place."""
    data = files.read(folder / name)
    return checked(name, without_mark(data) or data)


def checked(name: str, text: bytes) -> tuple[Mapping[str, Any], Any]:
    """(document, numbers) of a file's text. Raises ValueError for anything else, and for one of a newer program."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(content, dict) or content.get("format", 1) not in (1, FORMAT) or not isinstance(content.get("document"), dict):
        raise ValueError("not a measurement, or one of a newer program")
    if "numbers" not in content or (content.keys() - {"format", "check"}) != {"document", "numbers"}:
        raise ValueError("not the fields of a measurement")
    try:
        recorded = place(content["document"])
        canonical_bytes(content["numbers"])
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError("numbers without a canonical form") from error
    if recorded != name:
        raise ValueError("the document of another measurement")
    return content["document"], content["numbers"]
