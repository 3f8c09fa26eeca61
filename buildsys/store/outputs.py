"""`cache/out/<target>`: what people use, swapped in whole. Owns what it should hold and whether it still does."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

from buildsys import files
from buildsys.action import Digest
from buildsys.store.objects import Objects
from buildsys.store.observe import Observer

LINKED_FROM_BYTES = 1 << 16  # smaller files are copies: an editor may save over them without reaching the store


@dataclass(frozen=True)
class Content:
    """What an output folder holds.

    files  from the store: name -> (digest, bytes)
    links  outside the store: name -> the user's own file
    texts  written at this moment and part of no digest: a model card
    """

    files: dict[str, tuple[Digest, int]]
    links: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


class Outputs:
    def __init__(self, folder: Path, objects: Objects) -> None:
        self.folder = folder
        self._objects = objects

    def path(self, target: str) -> Path:
        return self.folder / target

    def difference(self, target: str, content: Content, observer: Observer) -> str | None:
        """Why the folder is not what it should be, in a few words; None where it is. It is exactly its list."""
        folder = f"{self.folder}{os.sep}{target}{os.sep}"
        if not observer.signature(folder[:-1]):
            return "output folder is missing"
        listed = {**content.files, **content.links, **content.texts}
        names = observer.names(folder[:-1])
        extra = next((name for name in names if name not in listed), None)
        if extra is not None:
            return f"output {extra} does not belong there"
        missing = next((name for name in listed if name not in names), None)
        if missing is not None:
            return f"output {missing} is missing"
        for name, (digest, size) in content.files.items():
            if not _is_regular(folder + name):
                return f"output {name} is not a file"
            if observer.identity(folder + name) == observer.identity(self._objects.place(digest)):
                continue
            if observer.size(folder + name) != size or observer.digest(folder + name) != digest:
                return f"output {name} was edited"
        for name, outside in content.links.items():
            if observer.identity(folder + name) != observer.identity(outside) or not os.path.islink(folder + name):
                return f"output {name} is not a link to {outside}"
        for name, text in content.texts.items():
            same_size = observer.size(folder + name) == len(text)
            if not _is_regular(folder + name) or not same_size or Path(folder + name).read_bytes() != text:
                return f"output {name} is out of date"
        return None

    def publish(self, target: str, content: Content, space: Path) -> None:
        """Make the folder anew in a workspace of ours, then exchange the two in one step."""
        new = space / "new"
        new.mkdir()
        for name, (digest, size) in content.files.items():
            if size >= LINKED_FROM_BYTES:
                self._objects.placed(digest, new / name)
            else:
                files.disk.copy(self._objects.place(digest), os.fspath(new / name))
        for name, outside in content.links.items():
            (new / name).symlink_to(outside)
        for name, text in content.texts.items():
            files.write_whole(new / name, text, flush=False)
        old = self.path(target)
        try:
            _swap(new, old)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._swap_across_disks(new, old)

    def _swap_across_disks(self, new: Path, old: Path) -> None:
        """The same where outputs lie on another disk than workspaces: a copy beside the old folder, and then the exchange."""
        beside = old.with_name(f".{old.name}.{secrets.token_hex(4)}")
        try:
            shutil.copytree(new, beside, symlinks=True, copy_function=_copied)
            _swap(beside, old)
        finally:
            self._objects.remove_folder(beside)

    def remove(self, target: str) -> None:
        """Show nothing for this target any more."""
        if os.path.lexists(self.path(target)):
            self._objects.remove_folder(self.path(target))

    def copies(self) -> list[tuple[str, Path]]:
        """(target, folder) of the copies that `publish` was making when its run was killed, or is making now."""
        hidden = [entry for entry in files.entries(self.folder) if entry.name.startswith(".")]
        return [(entry.name[1:].rpartition(".")[0], Path(entry.path)) for entry in hidden]


def _copied(source: str, target: str) -> None:
    files.disk.copy(source, target)


def _is_regular(path: str) -> bool:
    return stat.S_ISREG(os.lstat(path).st_mode)


def _swap(new: Path, old: Path) -> None:
    """`new` stands at `old`'s place afterwards, and what stood there at `new`'s: one step where the file system can exchange names."""
    if not os.path.lexists(old):
        try:
            files.disk.rename(os.fspath(new), os.fspath(old))
            return
        except OSError:
            if not os.path.lexists(old):
                raise
    try:
        files.disk.exchange(os.fspath(new), os.fspath(old))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
        aside = new.with_name(f"{new.name}.old")  # two steps, with a moment in which the folder is away
        files.disk.rename(os.fspath(old), os.fspath(aside))
        files.disk.rename(os.fspath(new), os.fspath(old))
        files.disk.rename(os.fspath(aside), os.fspath(new))
