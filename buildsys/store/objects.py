"""Blobs by their BLAKE3: read-only, never rewritten, believed while the signature stays that their bytes were last hashed under.

That signature, the seal, is kept in the stat cache. It holds the time of change, which nobody can set back. The store moves that time
itself when it links or unlinks an object: it looks at the seal just before, and renews it just after, so nothing is hashed again for it.
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
from contextlib import suppress
from pathlib import Path

from buildsys import files, trees
from buildsys.action import Digest
from buildsys.store.fresh import signature
from buildsys.store.observe import Observer, identity
from buildsys.store.stat_cache import StatCache

_STORED_NS = 1_000_000_000_000_000_000  # 2001-09-09: objects tell nothing of when they were made
_SEAL = "object"  # kind of row in the stat cache


class Objects:
    """`cache/objects`, and the place where damaged ones are set aside."""

    def __init__(self, cache: Path, stat_cache: StatCache) -> None:
        self.folder = cache / "objects"
        self.damaged = cache / "damaged"
        self._root = f"{self.folder}{os.sep}"
        self._stat_cache = stat_cache
        self._links = threading.Lock()
        self._inodes: dict[tuple[int, int], Digest] | None = None

    def use(self, stat_cache: StatCache) -> None:
        """Keep the seals in another stat cache from now on."""
        self._stat_cache, self._inodes = stat_cache, None

    def path(self, digest: Digest) -> Path:
        return Path(self.place(digest))

    def place(self, digest: Digest) -> str:
        """`path` as text: a plan asks for thousands."""
        return f"{self._root}{digest[:2]}{os.sep}{digest[2:]}"

    def digests(self) -> list[Digest]:
        """Those of all objects that are there, damaged or not."""
        folders = [entry for entry in files.entries(self.folder) if entry.is_dir(follow_symlinks=False)]
        names = [folder.name + entry.name for folder in folders for entry in files.entries(folder.path)]
        return sorted(name for name in names if files.is_digest(name))

    def intact(self, digest: Digest, size: int, observer: Observer) -> bool:
        """True where the object is there and its bytes are those of its name; hashed again only where its seal is broken.

        Raises BuildError for a link.
        """
        place = self.place(digest)
        found = observer.signature(place)
        if self._sealed(digest, found):
            return observer.size(place) == size
        if os.path.islink(place):
            raise files.linked(place)
        return bool(found) and observer.size(place) == size and self.verified(digest)

    def problem(self, digest: Digest, size: int, observer: Observer) -> str | None:
        """Why an object cannot be used, in a few words, or None."""
        if self.intact(digest, size, observer):
            return None
        missing = observer.size(self.place(digest)) is None
        return f"object {digest[:12]} is {'missing' if missing else 'damaged'}"

    def verified(self, digest: Digest) -> bool:
        """Hash an object, seal or no seal, and seal it where its bytes are those of its name. Raises BuildError for a link."""
        path = self.place(digest)
        before = signature(path)
        try:
            whole = files.digest(path, follow=False) == digest and signature(path) == before
        except OSError:  # missing, unreadable, a folder
            return False
        if whole:
            self._seal(digest, before)
        return whole

    def put(self, file: Path, known: Digest | None = None, *, flush: bool) -> tuple[Digest, int]:
        """Move a finished file in. `known`: its digest, if it was hashed on the way. `flush` waits for the disk before it returns."""
        digest, size = known or files.digest(file, follow=False), os.lstat(file).st_size
        path = self.path(digest)
        files.make_folder(path.parent)
        if os.path.islink(path):
            raise files.linked(path)
        if os.path.lexists(path) and (os.lstat(path).st_size != size or not self.verified(digest)):
            self.set_aside(digest)  # hashed, seal or no seal: whoever made these bytes again may have had a reason
        if os.path.lexists(path):  # the same bytes are there already, perhaps not yet on the disk
            files.unlink_if_there(file)
            if flush:
                files.flush_file(path)
            return digest, size
        os.chmod(file, 0o444)
        os.utime(file, ns=(_STORED_NS, _STORED_NS))
        if flush:
            files.flush_file(file)
        files.move(file, path)
        if flush:
            files.flush_folder(path.parent)
        self._seal(digest, signature(os.fspath(path)))  # young, but nobody else has had it open
        return digest, size

    def set_aside(self, digest: Digest) -> None:
        """Keep a damaged object for whoever wants to know why, out of everybody's way."""
        files.make_folder(self.damaged)
        files.move(self.path(digest), self.damaged / f"{digest}.{secrets.token_hex(4)}")

    def placed(self, digest: Digest, target: Path) -> None:
        """The object at another place: reflink where the file system can, else a hard link, else a copy."""
        source = self.path(digest)
        if _reflinked(source, target):
            return
        try:
            with self._links:
                sealed = self._sealed(digest, signature(os.fspath(source)))
                files.disk.link(os.fspath(source), os.fspath(target))
                if sealed:
                    self._seal(digest, signature(os.fspath(source)))
        except OSError:  # another disk, or no more links to one file
            files.disk.copy(os.fspath(source), os.fspath(target))

    def remove_folder(self, folder: Path) -> None:
        """Take away a folder in which there may be links to objects, and keep the seals of these."""
        with suppress(OSError):
            for entry in trees.below(folder):
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
                    self._unlink(entry.path, (status.st_ino, status.st_dev & 0xFFFFFFFFFFFFFFFF))
        trees.remove(folder)

    def _unlink(self, path: str, inode: tuple[int, int]) -> None:
        with self._links:
            digest = self._by_inode().get(inode)
            sealed = digest is not None and self._sealed(digest, signature(self.place(digest)))
            files.disk.unlink(path)
            if digest is not None and sealed:
                self._seal(digest, signature(self.place(digest)))

    def _by_inode(self) -> dict[tuple[int, int], Digest]:
        if self._inodes is None:
            self._inodes = {identity(seal): digest for digest, seal in self._stat_cache.of_kind(_SEAL).items()}
        return self._inodes

    def _sealed(self, digest: Digest, found: bytes) -> bool:
        row = self._stat_cache.get(digest, _SEAL)
        return row is not None and row[0] == found and bool(found)

    def _seal(self, digest: Digest, found: bytes) -> None:
        self._stat_cache.put(digest, _SEAL, found, "")
        if self._inodes is not None:
            self._inodes[identity(found)] = digest


def _reflinked(source: Path, target: Path) -> bool:
    import fcntl

    ficlone = 0x40049409  # linux/fs.h
    with open(source, "rb") as read, open(target, "xb") as write:
        try:
            fcntl.ioctl(write.fileno(), ficlone, read.fileno())
            return True
        except OSError:
            pass
    target.unlink()
    return False
