"""An action, its key and the explanation of a change: one canonical document serves all three. Knows no store, no target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from blake3 import blake3

FORMAT = 1  # raised only when the document below changes its shape: every key of every user changes with it

Digest = str
Labels = Mapping[str, Sequence[str]]  # list role or list parameter -> a name for each of its entries


@dataclass(frozen=True)
class Action:
    """Everything that decides an artifact's bytes; a name, a path or a host is never part of it."""

    rule: str
    version: int
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Digest | Sequence[Digest]]

    def document(self) -> dict[str, Any]:
        """What is hashed and what is compared, as plain data."""
        inputs = {role: given if isinstance(given, str) else list(given) for role, given in self.inputs.items()}
        return {
            "format": FORMAT,
            "rule": self.rule,
            "rule_version": self.version,
            "parameters": dict(self.parameters),
            "inputs": inputs,
        }

    def key(self) -> str:
        return digest_of(canonical_bytes(self.document()))


def digest_of(data: bytes) -> Digest:
    return blake3(data).hexdigest()


def canonical_bytes(value: Any) -> bytes:
    """UTF-8 JSON, sorted keys, no spaces: equal on every machine and in every run.

    Raises TypeError for a value that has no single spelling (path, set, NaN, a key that is no string); nothing is str()-ed.
    """
    return _spelt(value).encode()


def _spelt(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is list or kind is tuple:
        return f"[{','.join(map(_spelt, value))}]"
    if value is None or kind is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if kind is int:
        return str(value)
    if kind is float:
        if not math.isfinite(value):
            raise TypeError(f"{value} has no canonical form")
        # 1 and 1.0 are one value in a Buildfile, -0.0 and 0.0 too
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, Mapping):
        if not all(type(key) is str for key in value):
            raise TypeError(f"a key that is no string has no canonical form: {list(value)!r}")
        return f"{{{','.join([f'{encode_basestring(key)}:{_spelt(value[key])}' for key in sorted(value)])}}}"
    raise TypeError(f"{kind.__name__} has no canonical form: {value!r}")


def digest_of_files(files: Mapping[str, Digest]) -> Digest:
    """An artifact's digest: that of its list of (name, digest), sorted by name."""
    pairs = (f"[{encode_basestring(name)},{encode_basestring(files[name])}]" for name in sorted(files))
    return digest_of(f"[{','.join(pairs)}]".encode())  # canonical_bytes of the list, without asking what each entry is


def changes(
    old: Mapping[str, Any], new: Mapping[str, Any], old_labels: Labels | None = None, new_labels: Labels | None = None
) -> list[str]:
    """What differs between two documents, a line each; empty exactly when their keys are equal (labels apart)."""
    before, after = dict(_leaves(old, old_labels or {})), dict(_leaves(new, new_labels or {}))
    lines = []
    for where in [*before, *(where for where in after if where not in before)]:
        left, right = before.get(where), after.get(where)
        if left != right:
            lines.append(_described(where, left, right))
    if not lines and canonical_bytes(old) != canonical_bytes(new):
        lines.append("order of the inputs")  # the same leaves under the same labels, arranged otherwise
    return lines


def _leaves(document: Mapping[str, Any], labels: Labels) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, canonical text) of every value that is no container; list entries go by their label where they have one."""

    def walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        if isinstance(value, Mapping) and value:
            for key in sorted(value):
                yield from walk(value[key], (*path, key))
        elif isinstance(value, (list, tuple)) and value:
            names = labels.get(path[-1], ())
            for position, item in enumerate(value):
                name = names[position] if len(names) == len(value) else str(position + 1)
                yield from walk(item, (*path, name))
        else:
            yield path, canonical_bytes(value).decode()

    yield from walk(document, ())


def _described(where: tuple[str, ...], left: str | None, right: str | None) -> str:
    kind, *rest = where
    if kind == "rule_version":
        return f"rule version {left} → {right}"
    if kind == "inputs":
        role, *entry = rest
        name = f"{_singular(role)} {' '.join(entry)}" if entry else role
        if left is None or right is None:
            return f"{name} {'added' if left is None else 'removed'}"
        return f"{name} changed"
    *outer, last = rest or [kind]
    named = f"{_singular(outer[-1])} of {last}" if len(outer) == 1 and outer[0].endswith("s") else ".".join([*outer, last])
    if left is None:
        return f"{named} {right} added"
    if right is None:
        return f"{named} {left} removed"
    return f"{named} {left} → {right}"


def _singular(word: str) -> str:
    return word.removesuffix("s")
