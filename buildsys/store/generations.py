"""`cache/history.jsonl`: one marked line each time a target came out new. Append-only; appends and reads, interprets nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from buildsys import files
from buildsys.marks import Marks, without_mark

FORMAT = 2  # 1 had no mark
_KIND = "generation"  # of a mark
_BYTES_MAX, _LINES_MAX = 1 << 28, 1 << 20


@dataclass(frozen=True)
class Generation:
    """One result of a target.

    keys    the key of each of its steps
    labels  for each step, the names of the entries of its list inputs: what the recipe called them then
    """

    time: str
    target: str
    digest: str
    keys: dict[str, str]
    labels: dict[str, dict[str, list[str]]]


class History:
    """refused  how many lines about the targets asked for are not used: foreign, damaged or of a newer program"""

    def __init__(self, cache: Path, marks: Callable[[], Marks]) -> None:
        self.path = cache / "history.jsonl"
        self.refused = 0
        self._marks = marks

    def append(self, target: str, digest: str, keys: dict[str, str], labels: dict[str, dict[str, list[str]]]) -> None:
        self.add(Generation(datetime.now(UTC).isoformat(timespec="seconds"), target, digest, keys, labels))

    def add(self, generation: Generation) -> None:
        """Append a generation as it is."""
        files.append(self.path, self.marked(generation))

    def marked(self, generation: Generation) -> bytes:
        """A generation as a line."""
        text = json.dumps({"format": FORMAT, **asdict(generation)}, separators=(",", ":")).encode()
        return self._marks().sealed(_KIND, "", text)

    def latest(self, targets: Collection[str]) -> dict[str, Generation]:
        """The last generation of each of these targets. A line that is not ours, or that a crash cut off, is passed over."""
        latest: dict[str, Generation] = {}
        wanted = {target.encode() for target in targets}
        for line in self.lines():
            if line.partition(b'"target":"')[2].partition(b'"')[0] not in wanted:  # before the costly part
                continue
            generation = self.generation(line)
            if generation is None:
                self.refused += 1
            elif generation.target in targets:
                latest[generation.target] = generation
        return latest

    def lines(self) -> list[bytes]:
        """All that is written, used or not."""
        try:
            data = files.read(self.path, _BYTES_MAX)
        except FileNotFoundError:
            return []
        except OSError:  # a folder, say: what it was is lost, and the next writer sets it aside
            data = b"\n" * (_LINES_MAX + 1)
        if data.count(b"\n") > _LINES_MAX:
            self.refused += 1
            return []
        return [line for line in data.split(b"\n") if line]

    def generation(self, line: bytes) -> Generation | None:
        """What a line with a valid mark says, else None."""
        content = self._marks().content(_KIND, "", line)
        try:
            return None if content is None else checked(content)
        except ValueError:
            return None


def unmarked(line: bytes) -> Generation:
    """What a line says, whoever wrote it. Raises ValueError where it is not a generation."""
    return checked(without_mark(line) or line)


def checked(text: bytes) -> Generation:
    """A line's text as a generation. Raises ValueError for anything else, and for a line of a newer program."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(content, dict) or content.pop("format", 1) not in (1, FORMAT):
        raise ValueError("not a generation, or one of a newer program")
    if content.keys() != set(Generation.__dataclass_fields__) or not _is_generation(content):
        raise ValueError("not the fields of a generation")
    return Generation(**content)


def _is_generation(content: dict[str, Any]) -> bool:
    keys, labels = content["keys"], content["labels"]
    texts = (content["time"], content["target"], content["digest"])
    if not all(isinstance(text, str) for text in texts) or not isinstance(keys, dict) or not isinstance(labels, dict):
        return False
    names = [names for entries in labels.values() for names in (entries.values() if isinstance(entries, dict) else [None])]
    named = all(isinstance(one, list) and all(isinstance(name, str) for name in one) for one in names)
    return named and all(files.is_digest(key) for key in keys.values())
