"""What has to hold before a cache is used: it is ours, of our format, without links in it, and not brought by a link of a clone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from buildsys import files, measurements
from buildsys.errors import BuildError, os_failure
from buildsys.marks import Marks

FORMAT = "buildsys cache 2\n"
EARLIER = "buildsys cache 1\n"  # nothing in it carries a mark: `trusting` adopts it
FANNED = ("objects", "actions", measurements.FOLDER)  # folders of folders, by the first two digits of a key
FLAT = ("out", "refused", "partial", "logs", "tmp", "locks", "fresh")
_UNUSED = {".gitignore", "FORMAT"}  # what may stand in a cache that has never been used


def check(folder: Path) -> None:
    """Raises BuildError for a folder that something else made, for a link in it, and for another format of ours."""
    path = folder / "FORMAT"
    try:
        names = {entry.name for entry in _entries(folder) if not entry.name.startswith(".FORMAT.")}
        # after the listing, since a build writes it first
        text = files.read(path).decode("utf-8", "replace") if os.path.lexists(path) else None
    except OSError as error:
        raise os_failure(error, f"{folder} cannot be read") from error
    if text is None and names - _UNUSED:
        raise BuildError(
            f"{folder} was not made by build",
            [("holds", ", ".join(sorted(names)[:5])), ("lacks", "FORMAT")],
            "move it away, or run from another project folder; nothing was written",
        )
    if text not in (None, FORMAT, EARLIER):
        newer = _number(text or "") > _number(FORMAT)
        hint = f"if buildsys made this cache, its FORMAT is damaged: write '{FORMAT.strip()}' into it"
        raise BuildError(
            f"{folder} has another format",
            [("format", (text or "").strip()[:80] or "nothing"), ("expected", FORMAT.strip())],
            "a newer buildsys made it: update buildsys, or use another cache" if newer else hint,
        )
    _check_links(folder)


def unknown_link(folder: Path) -> BuildError:
    """The error for a cache that is a link which nobody has agreed to."""
    return BuildError(
        f"{folder} is a link to a cache that this project has not used yet",
        [("leads to", os.path.realpath(folder))],
        "'build cache trust' lets this project write there",
    )


class Projects:
    """`cache/PROJECTS`: those that may use a cache through a link. A project whose own folder it stood in is one."""

    def __init__(self, folder: Path, marks: Callable[[], Marks]) -> None:
        self._path, self._marks = folder / "PROJECTS", marks
        self._project = os.path.realpath(folder.parent)

    def known(self) -> bool:
        """True for the project that the cache was opened for."""
        return self._project in self._listed()

    def add(self) -> None:
        """Let that project in from now on."""
        known = self._listed()
        if self._project not in known:
            text = json.dumps({"projects": [*known, self._project]}).encode()
            files.write_whole(self._path, self._marks().sealed("projects", "", text), flush=False)

    def _listed(self) -> list[str]:
        try:
            content = self._marks().content("projects", "", files.read(self._path))
        except OSError:
            return []
        projects: list[str] = [] if content is None else json.loads(content)["projects"]
        return projects


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a cache, which may itself be a link."""
    if folder.exists():
        with os.scandir(folder) as found:
            yield from found


def _check_links(folder: Path) -> None:
    """Raises BuildError for a link in a cache, where the store would read or write through it."""
    for entry in _entries(folder):
        if entry.is_symlink():
            raise files.linked(entry.path)
    for name in (*FANNED, *FLAT, "damaged"):
        for entry in files.entries(folder / name):
            if entry.is_symlink():
                raise files.linked(entry.path)


def _number(text: str) -> int:
    last = text.rsplit(maxsplit=1)[-1] if text.split() else ""
    return int(last) if text.startswith("buildsys cache ") and last.isdecimal() and len(last) < 9 else 0
