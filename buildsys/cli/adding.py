"""`build add behavior`: a new table in the Buildfile and, where it is new, its node in the memory graph. Both, or neither."""

from __future__ import annotations

import glob
import os
import re
import stat
from pathlib import Path
from typing import Any

import tomli
import tomlkit

from buildsys import buildfile, declared, files, memory, regular
from buildsys.errors import UsageError, os_failure
from buildsys.store.cache import Cache

_NAME = re.compile(r"[A-Za-z0-9_-]+")


def behavior(root: Path, name: str, node: str, examples: str, rows: str | None, base: str | None) -> dict[str, Any]:
    """Declare a behaviour, and say what was written. The file keeps its comments and its order; a project with problems stays as it is.

    examples, rows  paths from the project's folder
    """
    place = root / "Buildfile.toml"
    file = buildfile.read(place)
    file.check()
    if not _NAME.fullmatch(name):
        raise UsageError(f"name '{name}' has characters other than letters, digits, '_' and '-'")
    for kind in ("behavior", "vector"):
        if name in file.known[kind]:
            raise UsageError(f"there is a {kind} '{name}' already", hint=f"its table is [{kind}.{name}]")
    table = {"node": node, **({"base": base} if base else {}), "examples": examples, **({"verify": {"rows": rows}} if rows else {})}
    after = _with(file.source, name, table).encode()
    pattern = file.graph.nodes
    if pattern is None:
        raise UsageError("there is no memory graph", hint='set [graph] nodes = "memory/*.md"')
    try:
        _check_place(root, place)
        written = _specified(root, pattern, node)
        _write_all(root, {**written, place: after})
    except OSError as error:
        raise os_failure(error, f"{place} could not be written") from error
    return {"behavior": name, "node": node, "wrote": [str(place), *map(str, written)], "targets": [f"vector-{name}", f"verified-{name}"]}


def _check_place(root: Path, path: Path) -> None:
    """Raises UsageError unless a path is inside the project, whatever links lead to it, and a file or nothing stands there."""
    folder = os.path.realpath(path.parent)
    if not Path(folder).is_relative_to(os.path.realpath(root)):
        facts = [("folder", folder), ("project", str(root))]
        raise UsageError(f"{path.name} is outside of the project, where nothing is written", facts, "write it by hand")
    if os.path.islink(path):
        facts = [("link", str(path)), ("destination", os.readlink(path))]
        raise UsageError(f"{path.name} is a link, and nothing is written through one", facts, "write it by hand")
    if os.path.lexists(path):
        regular.check(path)


def _write_all(root: Path, texts: dict[Path, bytes]) -> None:
    """Each file whole. Where one cannot be written, or the project has problems then, all of it is as it was before."""
    before = {path: (files.read(path), path.stat().st_mode) if os.path.lexists(path) else None for path in texts}
    made: list[Path] = []
    written: list[Path] = []
    try:
        for path, text in texts.items():
            for folder in reversed([folder for folder in path.parents if not folder.exists()]):
                folder.mkdir()
                made.append(folder)
            _write(path, text, before[path])
            written.append(path)
        declared.graph(buildfile.read(root / "Buildfile.toml"), Cache.open(root / "cache").observer())
    except BaseException:
        for path in written:
            old = before[path]
            path.unlink() if old is None else _write(path, old[0], old)
        for folder in reversed(made):
            folder.rmdir()
        raise


def _write(path: Path, text: bytes, old: tuple[bytes, int] | None) -> None:
    files.write_whole(path, text, flush=True)
    if old is not None:
        path.chmod(stat.S_IMODE(old[1]))


def _with(source: str, name: str, table: dict[str, Any]) -> str:
    """The file with one more behaviour, after the last one there is; every other byte stays."""
    made = tomlkit.table()
    for key, value in table.items():
        made[key] = tomlkit.inline_table() | value if isinstance(value, dict) else value
    text = f"[behavior.{name}]\n{tomlkit.dumps(made)}"
    wanted = tomli.loads(source)
    wanted.setdefault("behavior", {})[name] = table
    newline = "\r\n" if "\r\n" in source else "\n"
    for at in [*_after_last(source), len(source)]:
        head, tail = source[:at].rstrip("\r\n"), source[at:]
        found = (head + "\n\n" if head else "") + text + ("\n" + tail.lstrip("\r\n") if tail.strip() else "")
        found = found.replace("\r\n", "\n").replace("\n", newline)
        try:
            if tomli.loads(found) == wanted:
                return found
        except tomli.TOMLDecodeError:
            continue
    raise UsageError(
        "the Buildfile has no place for another [behavior.…] table", [(line,) for line in text.splitlines()], "write it by hand"
    )


def _after_last(source: str) -> list[int]:
    """Where the text of the last behaviour's tables may end: before the comments that lead to the next table."""
    lines = source.splitlines(keepends=True)
    starts = [at for at, line in enumerate(lines) if re.match(r"\s*\[", line)]
    own = [at for at in starts if re.match(r"\s*\[\s*behavior\s*\.", lines[at])]
    following = [at for at in starts if own and at > own[-1]]
    if not following:
        return []
    end = following[0]
    while end > own[-1] + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return [sum(map(len, lines[:end]))]


def _specified(root: Path, pattern: str, node: str) -> dict[Path, bytes]:
    """What has to be written for a node, or an aspect of one, to be in the memory graph. Raises as `_check_place` does."""
    id_, _, aspect = node.partition("#")
    nodes = memory.read(root, pattern, Cache.open(root / "cache").observer())
    if node in [name for one in nodes.values() for name in one.names()]:
        return {}
    if id_ in nodes:
        path = nodes[id_].path
        _check_place(root, path)
        return {path: _with_aspect(files.read(path).decode(), [*nodes[id_].aspects, aspect]).encode()}
    path = root / Path(pattern).parent / f"{id_}.md"
    if path.exists() or not _NAME.fullmatch(id_) or glob.has_magic(str(Path(pattern).parent)):
        raise UsageError(
            f"node '{node}' is not in {Path(pattern).parent}/",
            [("file", str(path))],
            "write it by hand: its name decides no more than its id",
        )
    _check_place(root, path)
    aspects = f"aspects: [{aspect}]\n" if aspect else ""
    return {path: f"---\nid: {id_}\n{aspects}links: []\n---\n".encode()}


def _with_aspect(text: str, aspects: list[str]) -> str:
    """A node's text with these aspects in its front matter."""
    line = f"aspects: [{', '.join(aspects)}]"
    head, separator, rest = text.partition("\n---")
    found = re.sub(r"(?m)^aspects:[^\n]*(\n[ \t]+[^\n]*|\n-[^\n]*)*$", line, head, count=1)
    found = (found if found != head else f"{head}\n{line}") + separator + rest
    if f"\n{line}\n" not in found or found.count("\naspects:") != 1:
        raise UsageError("the node's list of aspects could not be changed", hint=f"write it by hand: {line}")
    return found
