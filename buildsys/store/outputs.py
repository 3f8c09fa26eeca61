"""`cache/out/<target>`: what people use, swapped in whole. Owns what it should hold and whether it still does."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from buildsys.action import Digest
from buildsys.store.objects import Objects, place_copy
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
        """Why the folder is not what it should be, in a few words; None where it is."""
        folder = f"{self.folder}{os.sep}{target}{os.sep}"
        if not observer.signature(folder[:-1]):
            return "output folder is missing"
        for name, (digest, size) in content.files.items():
            found = observer.identity(folder + name)
            if found is None:
                return f"output {name} is missing"
            if found == observer.identity(self._objects.place(digest)):
                continue
            if observer.size(folder + name) != size or observer.digest(folder + name) != digest:
                return f"output {name} was edited"
        for name, place in content.links.items():
            if observer.identity(folder + name) != observer.identity(place) or not os.path.islink(folder + name):
                return f"output {name} is no link to {place}"
        for name, text in content.texts.items():
            if not observer.signature(folder + name) or Path(folder + name).read_bytes() != text:
                return f"output {name} is out of date"
        return None

    def publish(self, target: str, content: Content, space: Path) -> None:
        """Make the folder anew in a workspace of ours, then exchange the two in one step."""
        new = space / "new"
        new.mkdir()
        for name, (digest, size) in content.files.items():
            source, place = self._objects.path(digest), new / name
            if size >= LINKED_FROM_BYTES:
                place_copy(source, place)
            else:
                shutil.copyfile(source, place)
        for name, outside in content.links.items():
            (new / name).symlink_to(outside)
        for name, text in content.texts.items():
            (new / name).write_bytes(text)
        _swap(new, self.path(target))


def _swap(new: Path, old: Path) -> None:
    """`new` stands at `old`'s place afterwards, and what stood there at `new`'s: one step on Linux and macOS."""
    if not os.path.lexists(old):
        try:
            os.rename(new, old)
            return
        except OSError:
            if not os.path.lexists(old):
                raise
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(new), os.fsencode(old)
    if sys.platform == "linux":
        at_cwd, exchange = -100, 2
        failed = library.renameat2(at_cwd, names[0], at_cwd, names[1], exchange)
    elif sys.platform == "darwin":
        swap = 2
        failed = library.renamex_np(*names, swap)
    else:
        failed = -1
    if failed:  # a file system that cannot exchange: two steps, with a moment in which the folder is away
        aside = new.with_name(f"{new.name}.old")
        os.rename(old, aside)
        os.rename(new, old)
        os.rename(aside, new)
