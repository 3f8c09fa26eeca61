"""Buildfile.toml -> declarations, with the line of every problem. The only reader of TOML; knows no graph."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli
from pydantic import ValidationError

from buildsys import regular, strict
from buildsys.errors import UsageError, nearest, reason_of
from buildsys.lines import Lines
from buildsys.rules import Strict
from buildsys.tables import Base, Behavior, Build, Graph, Merged, Train, Vector
from buildsys.tables.verify import Verify


@dataclass(frozen=True)
class Problem:
    where: tuple[str, ...]  # path of keys
    text: str
    hint: str = ""


@dataclass
class Buildfile:
    """The declarations of one file. Tables with a problem are left out, but `known` still names them."""

    path: Path
    source: str
    build: Build = field(default_factory=Build)
    graph: Graph = field(default_factory=Graph)
    base: dict[str, Base] = field(default_factory=dict)
    behavior: dict[str, Behavior] = field(default_factory=dict)
    vector: dict[str, Vector] = field(default_factory=dict)
    merged: dict[str, Merged] = field(default_factory=dict)
    known: dict[str, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, where: tuple[str, ...], text: str, hint: str = "") -> None:
        """Note a problem. Raises UsageError with all of them once there are too many for anybody to read."""
        self.problems.append(Problem(where, text, hint))
        if len(self.problems) >= _PROBLEMS_MAX:
            self.check()

    def check(self) -> None:
        """Raises UsageError with every problem found so far."""
        if not self.problems:
            return
        lines = Lines(self.source)
        rows = [(lines.of(p.where), ".".join(p.where[:2]), p.text) for p in self.problems]
        rows.sort(key=lambda row: row[0])
        count = f"{len(rows)} problem{'' if len(rows) == 1 else 's'}"
        hints = list(dict.fromkeys(problem.hint for problem in self.problems if problem.hint))
        raise UsageError(f"{count} in {self.path.name}", [(f"line {line}", *row) for line, *row in rows], "; ".join(hints[:6]))


_KINDS: dict[str, type[Strict]] = {"base": Base, "behavior": Behavior, "vector": Vector, "merged": Merged}
_TABLES = ["build", "graph", "defaults", *_KINDS]
_BYTES_MAX = 2_000_000
_DEPTH_MAX = 32
_PROBLEMS_MAX = 1000
_KEYS_MAX = 1000  # of a table with keys of ours
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def read(path: Path) -> Buildfile:
    """All declarations and all problems of a file. Raises UsageError only where it is not TOML at all."""
    return parsed(regular.read(path, _BYTES_MAX), path)


def parsed(data: bytes, path: Path) -> Buildfile:
    """The same of its bytes; `path` is where names in it lead from."""
    try:
        source = data.decode()
        tables = tomli.loads(source)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name} is not UTF-8", [("byte", str(error.start))]) from error
    except tomli.TOMLDecodeError as error:
        line = source.splitlines()[error.lineno - 1] if error.lineno <= len(source.splitlines()) else ""
        shown_line = strict.shortened(line.strip(), 200)
        raise UsageError(
            f"{path.name} is not valid TOML", [(f"line {error.lineno}", shown_line, error.msg)], "https://toml.io/en/v1.0.0"
        ) from error
    except RecursionError as error:
        raise UsageError(f"{path.name} is nested deeper than {_DEPTH_MAX} levels") from error
    except ValueError as error:
        reason = reason_of(error).partition("; use ")[0]  # without Python's advice to its own users
        raise UsageError(f"{path.name} has a number or a date that cannot be read", [("reason", reason)]) from error
    _check_values(tables, path)
    file = Buildfile(path, source)
    for name in tables:
        if name not in _TABLES:
            _unknown(file, (name,), name, _TABLES, "table")
    defaults = _table(file, tables, "defaults")
    for name in defaults:
        if name not in ("train", "verify"):
            _unknown(file, ("defaults", name), name, ["train", "verify"], "table")
    parts: dict[str, type[Strict]] = {"train": Train, "verify": Verify}
    for name, model in parts.items():
        if name in defaults:
            good = _good_keys(file, ("defaults", name), model, defaults[name], complete=False)
            defaults[name] = {key: value for key, value in defaults[name].items() if key in good} if good is not None else {}
    file.build = _checked(file, ("build",), Build, _table(file, tables, "build")) or Build()
    file.graph = _checked(file, ("graph",), Graph, _table(file, tables, "graph")) or Graph()
    for kind, model in _KINDS.items():
        given = _table(file, tables, kind)
        file.known[kind] = list(given)
        for name, table in given.items():
            if not _NAME.fullmatch(name):
                file.problem((kind, name), f"name '{name}' has characters other than letters, digits, '_' and '-'")
            elif isinstance(table, dict):
                found = _checked(file, (kind, name), model, _with_defaults(kind, table, defaults))
                if found is not None:
                    getattr(file, kind)[name] = found
            else:
                file.problem((kind, name), f"is {_kind(table)}, expected a table")
    return file


def _check_values(tables: dict[str, Any], path: Path) -> None:
    """Raises UsageError for what TOML can spell and nothing can use: numbers beyond 64 bits, NUL in a text, depth without end."""
    inside: list[Any] = [tables]
    for _ in range(_DEPTH_MAX + 1):
        deeper: list[Any] = []
        for value in inside:
            kind = type(value)
            if kind is dict:
                deeper.extend(value)
                deeper.extend(value.values())
            elif kind is list:
                deeper.extend(value)
            elif kind is int and not -(1 << 63) <= value < 1 << 63:
                raise UsageError(f"{path.name} has a number of more than 64 bits", [("begins with", f"{value:#x}"[:20])])
            elif kind is str and "\0" in value:
                raise UsageError(f"{path.name} has a text with a NUL character", [("text", strict.shortened(repr(value), 60))])
        if not deeper:
            return
        inside = deeper
    raise UsageError(f"{path.name} is nested deeper than {_DEPTH_MAX} levels")


def _with_defaults(kind: str, table: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The table over the file's defaults, key by key; a merge's options apart from its own keys."""
    table = dict(table)
    if kind == "merged":
        own = set(Merged.model_fields) - {"options"}
        return {k: v for k, v in table.items() if k in own} | {"options": {k: v for k, v in table.items() if k not in own}}
    parts = ["train", "verify"] if kind == "behavior" else ["verify"] if kind == "vector" and "verify" in table else []
    for part in parts:
        given = table.get(part, {})
        if isinstance(given, dict) and isinstance(defaults.get(part), dict):
            table[part] = {**defaults[part], **given}
    return table


def _table(file: Buildfile, tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if isinstance(table, dict):
        return table
    file.problem((name,), f"is {_kind(table)}, expected a table")
    return {}


def _checked(file: Buildfile, where: tuple[str, ...], model: type[Strict], table: Any) -> Any:
    """The declaration, or what is left of it without its bad keys, so that the rest is checked too; None where nothing is."""
    good = _good_keys(file, where, model, table)
    if good is None:
        return None
    try:
        return model.model_validate({key: value for key, value in table.items() if key in good})
    except ValidationError:
        return None


def _good_keys(file: Buildfile, where: tuple[str, ...], model: type[Strict], table: Any, complete: bool = True) -> set[str] | None:
    """The keys of a table that are as they should be, every other one reported; None where it is no table.

    complete  False for defaults, whose keys have to fit together only with those of a table that they are completed by
    """
    if isinstance(table, dict) and len(table) > _KEYS_MAX:
        file.problem(where, f"has {len(table):,} keys, and {_KEYS_MAX:,} are the limit")
        return None
    try:
        model.model_validate(table)
        return set(table)
    except ValidationError as error:
        bad = {str(one["loc"][0]) for one in error.errors(include_url=False) if one["loc"]}
        for one in error.errors(include_url=False):
            if not one["loc"] and not complete and isinstance(table, dict):
                continue
            path = [str(part) for part in one["loc"]]
            # a union reports each of its branches under a name of its own: keep the keys that the file has
            keys = [
                part
                for part in path
                if not re.fullmatch(r"float|int|str|bool|list\[.*|dict\[.*|literal\[.*|constrained.*|function.*|\[key\]", part)
            ]
            _explain(file, where, keys, one, model)
        return set(table) - bad if isinstance(table, dict) else None


def _explain(file: Buildfile, where: tuple[str, ...], keys: list[str], one: Any, model: type[Strict]) -> None:
    at, name = (*where, *keys), ".".join(keys)
    if one["type"] == "extra_forbidden":
        table = _table_at(model, keys[:-1])
        reason = getattr(table, "REFUSED", {}).get(keys[-1])
        if reason:
            file.problem(at, f"'{keys[-1]}' {reason}")
        else:
            _unknown(file, at, keys[-1], _fields(table), "key", inside=".".join(keys[:-1]))
    elif one["type"] == "missing":
        file.problem((*where, *keys[:-1]), f"'{name}' is missing")
    elif one["type"] == "too_short":
        file.problem(at, f"'{name}' is empty")
    elif one["type"].startswith("union_tag"):
        file.problem(at, f"'{name}' is {shown(one['input'])}, expected text or a table")
    elif one["type"] == "value_error":
        file.problem(at, str(one["ctx"]["error"]))
    else:
        expected = one["msg"].removeprefix("Input should be ").removeprefix("a valid ")
        text = f"'{name}' is {shown(one['input'])}, expected {_plain(expected)}"
        previous = [p for p in file.problems if p.where == at]
        if previous and " or " not in previous[0].text:  # the branches of a union, one problem
            file.problems.remove(previous[0])
            text = f"{previous[0].text} or {_plain(expected)}"
        elif previous:
            return
        file.problem(at, text)


def _plain(expected: str) -> str:
    names = {"string": "text", "dictionary": "a table", "list": "a list", "boolean": "true or false"}
    names |= {"integer": "a whole number", "number": "a number"}
    if "instance of" in expected:
        return "a table"
    if "match pattern" in expected:
        if "{40}" in expected:
            return "a full commit hash of 40 hexadecimal digits"
        return "module:function" if ":" in expected else "letters, digits, '_' and '-'"
    return names.get(expected, expected)


def _table_at(model: type[Strict], keys: list[str]) -> type[Strict] | None:
    """The model of a nested table; None where an annotation says nothing of it."""
    for key in keys:
        if key.isdigit() or key not in model.model_fields:  # the place of an entry in a list, or a name that the file gave
            continue
        inner = list(_tables(model.model_fields[key].annotation))
        if not inner:
            return None
        model = inner[0]
    return model


def _fields(model: type[Strict] | None) -> list[str]:
    """The keys that a table may have."""
    return [name for name in model.model_fields if not (model is Merged and name == "options")] if model else []


def _tables(annotation: Any) -> Iterator[type[Strict]]:
    """The tables that an annotation is made of, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _tables(inner)


def _unknown(file: Buildfile, where: tuple[str, ...], name: str, known: list[str], noun: str, inside: str = "") -> None:
    close = nearest(name, known)
    hint = f"the nearest {noun} to '{name}' is '{close}'" if close else f"known {noun}s are {', '.join(known)}"
    file.problem(where, f"unknown {noun} '{name}'{f' in {inside}' if inside else ''}", hint)


def _kind(value: Any) -> str:
    kinds = {dict: "a table", list: "a list", str: "text", bool: "true or false"}
    return kinds.get(type(value), "a number" if isinstance(value, (int, float)) else "a date")


def shown(value: Any) -> str:
    """A value as a Buildfile spells it; a container by its kind."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, (str, int, float)) else _kind(value)
