"""Which files of a project may run: a judge, the files of a task. Trusts their bytes, and keeps what it trusts with the user."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import buildsys
from buildsys import configuration, outside
from buildsys.action import Digest
from buildsys.errors import BuildError, UsageError
from buildsys.graph import Graph, Step, Text
from buildsys.plan import Plan
from buildsys.rules import CODE
from buildsys.store.observe import Observer

FILE = "allowed.json"
FORMAT = 2  # 1 was a list of folders, whatever was in them
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN = 10  # files that an error names

Digests = dict[str, Digest]  # path relative to the project -> digest


def check(root: Path, plan: Plan, observer: Observer) -> None:
    """Raises UsageError where a step that has to run would run a file of the project that its user has not allowed as it is now."""
    asked = digests(root, (plan.graph.steps[name] for name in plan.run), observer)
    if not asked:
        return
    projects, problem = _read()
    known = projects.get(_name(root), {})
    if all(known.get(name) == digest for name, digest in asked.items()):
        return
    rows = [("note", problem)] if problem else []
    hint = "read the files, then: build allow"
    if not known:
        raise UsageError(f"{root} may not run code of its own", rows + _named(("file", name) for name in asked), hint)
    changed = [("changed" if name in known else "new", name) for name in asked if known.get(name) != asked[name]]
    gone = [("gone", name) for name in sorted(known.keys() - digests(root, plan.graph.steps.values(), observer).keys())]
    raise UsageError(f"code of {root} is not what was allowed to run", rows + _named([*changed, *gone]), hint)


def digests(root: Path, steps: Iterable[Step], observer: Observer) -> Digests:
    """Every file that these steps would run, as it is now. Raises UsageError for one that cannot be read."""
    sources = {source for step in steps for source in step.sources(CODE) if isinstance(source, Text)}
    return {os.path.relpath(source.path, root): outside.digest(source, observer) for source in sorted(sources, key=lambda one: one.path)}


def allow(root: Path, graph: Graph, observer: Observer) -> list[str]:
    """Let a project run the files of its own that its steps name, as they are now; returns their names."""
    asked = digests(root, graph.steps.values(), observer)
    _write(root, asked)
    return list(asked)


def revoke(root: Path) -> None:
    """Let a project run no code of its own any more."""
    _write(root, {})


def leave_out_modules(root: Path) -> None:
    """Keep modules of a project from being imported, here and in workers: what a judge imports from beside it would be in no key.

    An environment inside the project, and the place of this program, stay.
    """
    own = [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), Path(buildsys.__file__).resolve().parents[1]]
    inside = root.resolve()

    def is_of_the_project(entry: str) -> bool:
        path = Path(entry or os.curdir).resolve()
        return path.is_relative_to(inside) and not any(path.is_relative_to(place) and place != inside for place in own)

    sys.path[:] = [entry for entry in sys.path if not is_of_the_project(entry)]


def _named(rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    rows = list(rows)
    return rows[:_SHOWN] + ([("", f"… and {len(rows) - _SHOWN} more")] if len(rows) > _SHOWN else [])


def _name(root: Path) -> str:
    return str(root.resolve())


def _write(root: Path, asked: Digests) -> None:
    projects, _ = _read()
    projects.pop(_name(root), None)
    if asked:
        projects[_name(root)] = asked
    configuration.write(FILE, json.dumps({"format": FORMAT, "projects": projects}, indent=1, sort_keys=True).encode() + b"\n")


def _read() -> tuple[dict[str, Digests], str]:
    """(project -> the files it may run, why what was recorded is not believed)."""
    try:
        data = configuration.read(FILE)
    except BuildError as error:  # somebody else could have written it: whoever allows again writes it anew
        return {}, error.headline
    return ({}, "") if data is None else parsed(data)


def parsed(data: bytes) -> tuple[dict[str, Digests], str]:
    """The same of a file's bytes."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, list):
        return {}, f"{FILE} is of an earlier version, which allowed folders, not files"
    if isinstance(document, dict) and isinstance(document.get("format"), int) and document["format"] > FORMAT:
        return {}, f"{FILE} is of a later version"
    projects = document.get("projects") if isinstance(document, dict) and document.get("format") == FORMAT else None
    if not isinstance(projects, dict) or not all(isinstance(files, dict) and _are_digests(files) for files in projects.values()):
        return {}, f"{FILE} is damaged"
    return projects, ""


def _are_digests(files: dict[str, object]) -> bool:
    return all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in files.values())
