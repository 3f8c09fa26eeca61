"""Everything a plan looks at on disk passes through here: noted for `fresh`, hashed once, remembered in the stat cache."""

from __future__ import annotations

import errno
import glob
import os
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

from buildsys import deadline, files
from buildsys.action import Digest
from buildsys.errors import UsageError
from buildsys.store.fresh import signature
from buildsys.store.stat_cache import StatCache

_UNPACK = struct.Struct("<qqqqqQ").unpack
_TICK = 20_000_000  # ns; the coarsest step of a clock behind a fine-grained timestamp
_GLOB_SECONDS = 3.0
_COARSE_TICK = 2_000_000_000  # ns; of a file system that keeps whole seconds


class Observer:
    """Signatures, digests and listings of files, each asked of the disk once a run.

    `observed` maps every path that was looked at, whether it was there or not, to its signature.
    """

    def __init__(self, stat_cache: StatCache, seen: dict[str, bytes] | None = None) -> None:
        self.observed: dict[str, bytes] = {}
        self._early, self._early_at = seen or {}, time.time_ns()  # as of a moment ago; asked again when a file is read
        self._seen_at: dict[str, int] = {}
        self._stat_cache = stat_cache

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
        return identity(found) if found else None

    def forget(self, path: Path | str) -> None:
        """Look again next time: we have just written it."""
        self._early.pop(os.fspath(path), None)
        self.observed.pop(os.fspath(path), None)

    def digest(self, path: Path | str) -> Digest:
        """BLAKE3 of the file's bytes. Raises OSError where it cannot be read."""
        digest: Digest = self.derived(path, "digest", files.digest)
        return digest

    def derived(self, path: Path | str, kind: str, compute: Callable[[str], str]) -> str:
        """What `compute` makes of the file's bytes, once for as long as its signature stays."""
        path = os.fspath(path)
        while True:
            found = self.signature(path)
            known = self._stat_cache.get(path, kind)
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
        keep = self._stat_cache.hold if self.racy(path) else self._stat_cache.put
        keep(path, kind, self.signature(path), value)

    def racy(self, path: str) -> bool:
        return racy(self.observed[path], self._seen_at[path])

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

        root  a path as it is: what looks like a pattern in it is a name

        Raises UsageError for a pattern that goes through folders without end: the whole disk, or links in a circle.
        """
        try:
            with deadline.within(_GLOB_SECONDS):
                return self._matching(root, pattern)
        except deadline.Expired as error:
            facts = [("pattern", pattern), ("limit", f"{_GLOB_SECONDS:g} seconds")]
            raise UsageError("a pattern goes through too many folders", facts, "begin it with the folder that holds the files") from error

    def _matching(self, root: Path, pattern: str) -> list[Path]:
        if not glob.has_magic(pattern):
            place = root / pattern
            return [place] if self.signature(place) else []
        parts = Path(pattern).parts
        fixed = _before_magic(parts)
        top, parts = root.joinpath(*fixed), parts[len(fixed) :]
        self.signature(top)
        for depth in range(1, len(parts)):
            recursive = "**" in parts[:depth]
            for folder in glob.glob(os.path.join(*parts[:depth]), root_dir=top, recursive=recursive):
                if os.path.isdir(top / folder):
                    self.signature(top / folder)
        matches = glob.glob(os.path.join(*parts), root_dir=top, recursive=True)
        return sorted(top / match for match in matches if self._is_file(str(top / match)))

    def _is_file(self, path: str) -> bool:
        found = self.signature(path)  # of a dangling link too: its target may appear
        return bool(found) and stat.S_ISREG(_UNPACK(found)[0])

    def save(self) -> None:
        """Keep what was learnt for the next run."""
        self._stat_cache.save()


def identity(signature_of_file: bytes) -> tuple[int, int]:
    """(inode, device)."""
    inode, device = _UNPACK(signature_of_file)[4:6]
    return inode, device


def racy(signature_of_file: bytes, seen_at_ns: int) -> bool:
    """True where the file could be written again without a new signature, as git explains it for its index.

    Whoever restores a modification time cannot restore the time of change: the later of the two counts. A modification time in the future
    says nothing, and the time of change stands for both.
    """
    if not signature_of_file:
        return False
    modified, changed = _UNPACK(signature_of_file)[2:4]
    latest = changed if modified > seen_at_ns else max(modified, changed)
    tick = _TICK if latest % 1_000_000_000 else _COARSE_TICK
    return bool(latest + tick > seen_at_ns)


def _before_magic(parts: tuple[str, ...]) -> list[str]:
    fixed = []
    for part in parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed
