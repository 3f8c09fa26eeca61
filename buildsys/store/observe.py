"""Everything a plan looks at on disk passes through here: noted for `fresh`, hashed once, remembered in `cache/stat.sqlite`."""

from __future__ import annotations

import errno
import glob
import os
import sqlite3
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from buildsys import deadline
from buildsys.action import Digest
from buildsys.errors import UsageError
from buildsys.store.fresh import signature

_UNPACK = struct.Struct("<qqqqqQ").unpack
_TICK = 20_000_000  # ns; the coarsest step of a clock behind a fine-grained timestamp
_GLOB_SECONDS = 20.0
_COARSE_TICK = 2_000_000_000  # ns; of a file system that keeps whole seconds


class Observer:
    """Signatures, digests and listings of files, each asked of the disk once a run.

    `observed` maps every path that was looked at, whether it was there or not, to its signature.
    """

    def __init__(self, database: Path | None, seen: dict[str, bytes] | None = None) -> None:
        self.observed: dict[str, bytes] = {}
        self._early, self._early_at = seen or {}, time.time_ns()  # as of a moment ago; asked again when a file is read
        self._seen_at: dict[str, int] = {}
        self._database = database
        self._known: dict[tuple[str, str], tuple[bytes, str]] = _load(database)
        self._learnt: dict[tuple[str, str], tuple[bytes, str]] = {}

    def signature(self, path: Path | str) -> bytes:
        path = os.fspath(path)
        found = self.observed.get(path)
        if found is None:
            early = self._early.pop(path, None)
            self._seen_at[path] = time.time_ns() if early is None else self._early_at
            found = self.observed[path] = signature(path) if early is None else early
        return found

    def size(self, path: Path | str) -> int | None:
        found = self.signature(path)
        return _UNPACK(found)[1] if found else None

    def identity(self, path: Path | str) -> tuple[int, int] | None:
        """(inode, device): two names with one identity are one file."""
        found = self.signature(path)
        return _UNPACK(found)[4:6] if found else None

    def modified(self, path: Path | str) -> int | None:
        found = self.signature(path)
        return _UNPACK(found)[2] if found else None

    def forget(self, path: Path | str) -> None:
        """Look again next time: we have just written it."""
        self._early.pop(os.fspath(path), None)
        self.observed.pop(os.fspath(path), None)

    def digest(self, path: Path | str) -> Digest:
        """BLAKE3 of the file's bytes. Raises OSError where it cannot be read."""
        digest: Digest = self.derived(path, "digest", file_digest)
        return digest

    def derived(self, path: Path | str, kind: str, compute: Callable[[str], str]) -> str:
        """What `compute` makes of the file's bytes, once for as long as its signature stays."""
        path = os.fspath(path)
        while True:
            found = self.signature(path)
            known = self._known.get((path, kind))
            if known and known[0] == found:
                return known[1]
            if not found:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            value = compute(path)
            if signature(path) == found:  # not written to while it was read
                break
            self.forget(path)
        self.learn(path, kind, value)
        return value

    def learn(self, path: Path | str, kind: str, value: str) -> None:
        """Remember a value that is known to belong to what stands at this path now."""
        path = os.fspath(path)
        found = self.signature(path)
        self._known[path, kind] = found, value
        if not self.racy(path):
            self._learnt[path, kind] = found, value

    def racy(self, path: str) -> bool:
        """True where the file could be written again without a new timestamp, as git explains it for its index."""
        found = self.observed[path]
        if not found:
            return False
        modified: int = _UNPACK(found)[2]
        tick = _TICK if modified % 1_000_000_000 else _COARSE_TICK
        return modified + tick > self._seen_at[path]

    def any_racy(self) -> bool:
        return any(self.racy(path) for path in self.observed)

    def names(self, folder: Path | str) -> list[str]:
        """The sorted names in a folder; its own signature changes with them. Empty where it is none."""
        found = self.signature(folder)
        if not found or not stat.S_ISDIR(_UNPACK(found)[0]):
            return []
        return self.derived(folder, "names", lambda path: "/".join(sorted(os.listdir(path)))).split("/")

    def glob(self, root: Path, pattern: str) -> list[Path]:
        """The files that match, sorted; every folder that a new match could appear in is observed.

        Raises UsageError for a pattern that goes through folders without end: the whole disk, or links in a circle.
        """
        try:
            with deadline.within(_GLOB_SECONDS):
                return self._matching(root, pattern)
        except deadline.Expired as error:
            facts = [("pattern", pattern), ("limit", f"{_GLOB_SECONDS:g} seconds")]
            raise UsageError("a pattern goes through too many folders", facts, "begin it with the folder that holds the files") from error

    def _matching(self, root: Path, pattern: str) -> list[Path]:
        place = root / pattern
        if not glob.has_magic(pattern):
            return [place] if self.signature(place) else []
        fixed = Path(*_before_magic(place.parts))
        self.signature(fixed)
        deep = place.relative_to(fixed).parts[:-1]
        for depth in range(1, len(deep) + 1):
            recursive = any(part == "**" for part in deep[:depth])
            for folder in glob.glob(str(fixed.joinpath(*deep[:depth])), recursive=recursive):
                if os.path.isdir(folder):
                    self.signature(folder.rstrip(os.sep))
        return sorted(Path(found) for found in glob.glob(str(place), recursive=True) if self._is_file(found))

    def _is_file(self, path: str) -> bool:
        found = self.signature(path)  # of a dangling link too: its target may appear
        return bool(found) and stat.S_ISREG(_UNPACK(found)[0])

    def save(self) -> None:
        """Keep what was learnt. A cache that cannot be written loses time next run, nothing else."""
        if not self._learnt or self._database is None:
            return
        rows = [(path, kind, found, value) for (path, kind), (found, value) in self._learnt.items()]
        try:
            with sqlite3.connect(self._database, timeout=5) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS known (path, kind, signature, value, PRIMARY KEY (path, kind))")
                connection.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?)", rows)
            connection.close()
        except sqlite3.Error:
            return
        self._learnt = {}


def file_digest(path: Path | str) -> Digest:
    """BLAKE3 of a file, on all cores once it is large."""
    size = os.stat(path).st_size
    hasher = blake3(max_threads=blake3.AUTO if size > 1 << 22 else 1)
    hasher.update_mmap(os.fspath(path))
    return hasher.hexdigest()


def _load(database: Path | None) -> dict[tuple[str, str], tuple[bytes, str]]:
    if database is None or not database.exists():
        return {}
    try:
        connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        rows = connection.execute("SELECT path, kind, signature, value FROM known").fetchall()
        connection.close()
    except sqlite3.OperationalError:  # locked, or without its table yet
        return {}
    except sqlite3.DatabaseError:  # cut off or damaged: it may be deleted at any time, so it is
        database.unlink(missing_ok=True)
        return {}
    return {(path, kind): (found, value) for path, kind, found, value in rows}


def _before_magic(parts: tuple[str, ...]) -> list[str]:
    fixed = []
    for part in parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed
