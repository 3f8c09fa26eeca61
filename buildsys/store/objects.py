"""Blobs by their BLAKE3: read-only, never rewritten, sealed by a fixed timestamp so that one `stat` shows a touched one."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from buildsys.action import Digest
from buildsys.store.observe import Observer, file_digest

SEALED_NS = 1_000_000_000_000_000_000  # 2001-09-09: a write through any link moves the timestamp away from it


class Objects:
    """`cache/objects`, and the place where damaged ones are set aside."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache / "objects"
        self.damaged = cache / "damaged"
        self._root = f"{self.folder}{os.sep}"

    def path(self, digest: Digest) -> Path:
        return Path(self.place(digest))

    def place(self, digest: Digest) -> str:
        """`path` as text: a plan asks for thousands."""
        return f"{self._root}{digest[:2]}{os.sep}{digest[2:]}"

    def intact(self, digest: Digest, size: int, observer: Observer) -> bool:
        """True where the object is there and its bytes are those of its name; re-hashed only when its seal is broken."""
        place = self.place(digest)
        if observer.size(place) != size:
            return False
        if observer.modified(place) == SEALED_NS:
            return True
        return observer.digest(place) == digest  # a copy of the cache that lost its timestamps, or an edited object

    def problem(self, digest: Digest, size: int, observer: Observer) -> str | None:
        """Why an object cannot be used, in a few words, or None."""
        if self.intact(digest, size, observer):
            return None
        missing = observer.size(self.place(digest)) is None
        return f"object {digest[:12]} is {'missing' if missing else 'damaged'}"

    def put(self, file: Path, known: Digest | None = None, *, flush: bool) -> tuple[Digest, int]:
        """Move a finished file in. `known`: its digest, if it was hashed on the way. `flush` waits for the disk before it returns."""
        digest, size = known or file_digest(file), file.stat().st_size
        place = self.path(digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and not self._sound(place, digest, size):
            self.set_aside(digest)
        if place.exists():  # the same bytes are there already, perhaps not yet on the disk
            file.unlink()
            if flush:
                flush_file(place)
            return digest, size
        os.chmod(file, 0o444)
        os.utime(file, ns=(SEALED_NS, SEALED_NS))
        if flush:
            flush_file(file)
        os.replace(file, place)
        if flush:
            flush_file(place.parent)
        return digest, size

    def set_aside(self, digest: Digest) -> None:
        """Keep a damaged object for whoever wants to know why, out of everybody's way."""
        self.damaged.mkdir(exist_ok=True)
        os.replace(self.path(digest), self.damaged / f"{digest}.{secrets.token_hex(4)}")

    def reseal(self, digest: Digest) -> None:
        os.utime(self.path(digest), ns=(SEALED_NS, SEALED_NS))

    def _sound(self, place: Path, digest: Digest, size: int) -> bool:
        """Hashed, seal or no seal: whoever made these bytes again may have had a reason not to believe it."""
        if place.stat().st_size != size or file_digest(place) != digest:
            return False
        self.reseal(digest)
        return True


def flush_file(path: Path) -> None:
    """fsync of a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes, *, flush: bool) -> None:
    """All of it or nothing, under a temporary name in the same folder first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(part, "wb") as file:
            file.write(data)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
        if flush:
            flush_file(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def place_copy(source: Path, target: Path) -> None:
    """Reflink where the file system can, else a hard link, else a copy."""
    if not _reflinked(source, target):
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def _reflinked(source: Path, target: Path) -> bool:
    import fcntl

    ficlone = 0x40049409  # linux/fs.h
    with open(source, "rb") as read, open(target, "wb") as write:
        try:
            fcntl.ioctl(write.fileno(), ficlone, read.fileno())
            return True
        except OSError:
            pass
    target.unlink()
    return False
