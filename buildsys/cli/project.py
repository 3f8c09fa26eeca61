"""A project folder, opened: its Buildfile read, its store ready, its plan made. Shared by all commands."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import buildsys
from buildsys import buildfile, declared, plan
from buildsys.errors import BuildError, UsageError
from buildsys.graph import Graph
from buildsys.store import fresh
from buildsys.store.cache import Cache
from buildsys.store.observe import Observer

_SETTLE_SECONDS = 0.025  # longer than the step of a fine file clock: what we wrote ourselves is then no longer racy


@dataclass(frozen=True)
class Project:
    root: Path
    cache: Cache
    observer: Observer
    graph: Graph


def opened(folder: str, seen: dict[str, bytes] | None = None) -> Project:
    """Raises UsageError where there is no Buildfile, or where it has problems."""
    path = root(folder)
    cache = Cache.open(path / "cache")
    return _read(path, cache, seen)


def root(folder: str) -> Path:
    """The project's own folder: the one given, or the nearest above it that has a Buildfile."""
    if not Path(folder).is_dir():
        raise UsageError(f"there is no folder {folder}")
    found = fresh.project_root(folder)
    if found is None:
        raise UsageError("there is no Buildfile.toml", [("looked in", str(Path(folder).resolve())), ("and", "the folders above it")])
    return Path(found)


def _read(root: Path, cache: Cache, seen: dict[str, bytes] | None = None) -> Project:
    observer = cache.observer(seen)
    for place in (root / "Buildfile.toml", cache.folder / "FORMAT", *sorted(Path(buildsys.__file__).parent.rglob("*.py"))):
        observer.signature(place)  # a new version of the program may find something to do
    file = buildfile.read(root / "Buildfile.toml")
    return Project(root, cache, observer, declared.graph(file, observer))


def remember(project: Project, patterns: Sequence[str], found: plan.Plan) -> None:
    """Let the next run answer from `stat` alone, if this plan found nothing to do and nothing is too young to be trusted."""
    if not found.nothing_to_do() or project.observer.any_racy() or not project.cache.marks.usable:
        return
    with contextlib.suppress(OSError):  # who may only read the cache asks the plan each time
        fresh.remember(str(project.cache.folder), list(patterns), up_to_date(found), project.observer.observed, project.cache.marks)


def settle(project: Project, patterns: Sequence[str]) -> None:
    """After a build: plan once more, which must find nothing to do, and remember that."""
    time.sleep(_SETTLE_SECONDS)
    with contextlib.suppress(BuildError, OSError):  # somebody edits the project already: the next build will say what it thinks
        again = _read(project.root, project.cache)
        remember(again, patterns, plan.make(again.graph, again.cache, again.observer, patterns))
        again.observer.save()


def up_to_date(found: plan.Plan) -> str:
    number = len(found.targets)
    return f"up to date ({number} target{'' if number == 1 else 's'})"
