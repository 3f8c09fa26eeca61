"""`cache/stat.jsonl`: what was computed of a file, for as long as its signature stays. May be deleted at any time.

Two kinds of rows: values of files outside (digests, parsed rows), by path; and seals of the store's own objects, by digest. A line holds
the rows of one build and their mark: a line that is damaged, or foreign, is passed over.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from buildsys import files
from buildsys.errors import BuildError
from buildsys.marks import Marks

NAME = "stat.jsonl"
_KIND = "stat"  # of a mark
_BYTES_MAX, _READ_LINES_MAX = 1 << 28, 1 << 18  # beyond them it is not ours, or has grown for too long: it is begun anew
_LINES_MAX = 64  # more are written as one, without what is no longer there
Row = tuple[str, str, bytes, str]  # path or digest, kind of value, signature, value


class StatCache:
    """The rows of one cache, read once a process. `path` None: nothing is kept."""

    def __init__(self, path: Path | None, marks: Marks) -> None:
        self._path, self._marks = path, marks
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], tuple[bytes, str]] | None = None
        self._new: dict[tuple[str, str], tuple[bytes, str]] = {}
        self._lines = 0  # that were read, and not yet written as one: at most once a process

    def get(self, name: str, kind: str) -> tuple[bytes, str] | None:
        """(signature, value) of a file."""
        return self._loaded().get((name, kind))

    def put(self, name: str, kind: str, signature: bytes, value: str) -> None:
        with self._lock:
            self._loaded()[name, kind] = self._new[name, kind] = signature, value

    def hold(self, name: str, kind: str, signature: bytes, value: str) -> None:
        """For this process only: the file is too young for its signature to be trusted by the next."""
        with self._lock:
            self._loaded()[name, kind] = signature, value

    def of_kind(self, kind: str) -> dict[str, bytes]:
        """name -> signature of every row of a kind."""
        with self._lock:
            return {name: signature for (name, other), (signature, _) in self._loaded().items() if other == kind}

    def save(self) -> None:
        """Keep what is new. A cache that cannot be written loses time in the next run, nothing else."""
        with self._lock:
            new, self._new = self._new, {}
            if not new or self._path is None or not self._marks.usable:
                return
            with suppress(OSError, BuildError):
                if self._lines < _LINES_MAX:
                    files.append(self._path, self._line(new))
                else:
                    rows = {key: row for key, row in self._loaded().items() if not os.path.isabs(key[0]) or os.path.lexists(key[0])}
                    files.write_whole(self._path, self._line(rows) + b"\n", flush=False)
                    self._lines = 0

    def _line(self, rows: Mapping[tuple[str, str], tuple[bytes, str]]) -> bytes:
        listed = [(name, kind, signature.hex(), value) for (name, kind), (signature, value) in rows.items()]
        return self._marks.sealed(_KIND, "", json.dumps({"rows": listed}, separators=(",", ":")).encode())

    def _loaded(self) -> dict[tuple[str, str], tuple[bytes, str]]:
        if self._rows is None:
            lines = self._read()
            contents = [self._marks.content(_KIND, "", line) for line in lines]
            rows = [row for content in contents if content is not None for row in parsed(content)]
            self._lines, self._rows = len(lines), {(name, kind): (signature, value) for name, kind, signature, value in rows}
        return self._rows

    def _read(self) -> list[bytes]:
        if self._path is None or not self._marks.usable:
            return []
        try:
            data = files.read(self._path, _BYTES_MAX)
        except OSError:
            data = b""
        return data.split(b"\n")[:-1] if data.count(b"\n") <= _READ_LINES_MAX else [b""] * _LINES_MAX


def parsed(content: bytes) -> list[Row]:
    """The rows of one line whose mark is valid."""
    return [(name, kind, bytes.fromhex(signature), value) for name, kind, signature, value in json.loads(content)["rows"]]
