"""Digests of what lies outside the store: rows as parsed, model folders as lists of files, texts as bytes. Remembers through `observe`.

The door for files of the user's: what is hashed or handed to a rule is a regular file, and of a folder one that belongs to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from buildsys import files as hashing
from buildsys import memory, regular
from buildsys.action import Digest, canonical_bytes, digest_of, digest_of_files
from buildsys.errors import BuildError, UsageError
from buildsys.examples import rows
from buildsys.graph import Folder, Rows, Text
from buildsys.store.observe import Observer
from buildsys.tensors import checkpoints, folders

_ROWS_BYTES_MAX = 4_000_000_000
_HASHED_AT_ONCE = 1 << 30  # bytes


def digest(source: Rows | Folder | Text, observer: Observer) -> Digest:
    """Raises UsageError where a file cannot be read."""
    if isinstance(source, Rows):
        return parsed_rows(source, observer)["digest"]
    try:
        if isinstance(source, Folder):
            places = {name: f"{source.path}{os.sep}{name}" for name in files(source, observer)}
            return digest_of_files({name: observer.derived(place, "digest", _file_digest) for name, place in places.items()})
        regular.check(source.path, source.bytes_max)
        return observer.digest(source.path)
    except OSError as error:
        raise _unreadable(source.path, error) from error


def check(source: Folder | Text, observer: Observer) -> None:
    """Raises UsageError for what `digest` would not take; reads nothing."""
    try:
        if isinstance(source, Folder):
            files(source, observer)
        else:
            regular.check(source.path, source.bytes_max)
    except OSError as error:
        raise _unreadable(source.path, error) from error


def files(folder: Folder, observer: Observer) -> list[str]:
    """Which of a folder's files belong to what it is named for.

    Raises UsageError for one that is not a regular file of the folder itself, and for a model that has its weights twice.
    """
    names = observer.names(folder.path)
    if folder.adapter:
        return checked(folder, folders.adapter_files(names))
    belonging = folders.model_files(names)
    shards = None
    if folders.INDEX in belonging:
        checked(folder, [folders.INDEX])
        shards = observer.derived(folder.path / folders.INDEX, "shards", _shards).splitlines()
        if not shards:
            return checked(folder, belonging)
    weights = folders.weights(folder.path, belonging, shards)
    return checked(folder, [name for name in belonging if name in weights or not name.endswith(".safetensors")])


def checked(folder: Folder, names: Iterable[str]) -> list[str]:
    """The names, sorted. Raises UsageError for one that is not a regular file of the folder itself."""
    names = sorted(names)
    folders.check(folder.path, names)
    return names


def _file_digest(path: str) -> str:
    """As `files.digest`. Weights that take long to hash are looked at first: a header costs nothing, and may not account for their size."""
    if path.endswith(".safetensors") and os.stat(path).st_size > _HASHED_AT_ONCE:
        try:
            checkpoints.header(Path(path))
        except BuildError as error:
            raise UsageError(error.headline, error.facts, error.hint) from error
    return hashing.digest(path)


def _shards(path: str) -> str:
    """What an index names, a line each; nothing where it is none: whoever opens the model says what is wrong with it."""
    try:
        return "\n".join(checkpoints.weight_names(Path(path)))
    except BuildError:
        return ""


def picked_rows(source: Rows) -> list[rows.Row]:
    """The rows that a source means, read now. Raises UsageError for rows that are none, OSError for a file that cannot be read."""
    data = regular.read(source.path, _ROWS_BYTES_MAX)
    if source.aspect is not None:
        data = memory.examples(data, source.aspect)
    return rows.part(rows.parse(data, str(source.path)), source.part)


def _of(source: Rows) -> str:
    return "" if source.aspect is None else f" of {source.aspect!r}"


def parsed_rows(source: Rows, observer: Observer) -> dict[str, str]:
    """{digest, shape, number} of the rows that a source means; the file is parsed once for as long as it stays."""
    shape, *digests = _examined(source, observer)[: 1 + len(_PARTS)]
    positions = rows.positions([asked for asked, _ in _each(source, observer)], source.part)
    return {"digest": digests[_PARTS.index(source.part)], "shape": shape, "number": str(len(positions))}


def hold_conversations(source: Rows, observer: Observer) -> bool:
    """True where a row is made of messages, which go through a chat template."""

    def compute(path: str) -> str:
        return "".join("messages" for row in picked_rows(source) if rows.is_conversation(row))[:1]

    try:
        return bool(observer.derived(source.path, f"conversations {source.part}{_of(source)}", compute))
    except OSError as error:
        raise _unreadable(source.path, error) from error


def row_digests(source: Rows, observer: Observer) -> list[tuple[str, str]]:
    """Short digests of each row, in order: of what it asks and answers, whatever it rejects, and of all of it."""
    each = _each(source, observer)
    return [each[position] for position in rows.positions([asked for asked, _ in each], source.part)]


_PARTS: tuple[rows.Part, ...] = ("all", "train", "held-out")


def _each(source: Rows, observer: Observer) -> list[tuple[str, str]]:
    return [(asked, whole) for asked, _, whole in (one.partition(":") for one in _examined(source, observer)[1 + len(_PARTS) :])]


def _examined(source: Rows, observer: Observer) -> list[str]:
    """Everything that a plan asks of a file of rows: their shape, the digest of each part, and two short digests of each row."""

    def compute(path: str) -> str:
        every = picked_rows(replace(source, part="all"))
        lines = [canonical_bytes(row) + b"\n" for row in every]
        names = [rows.asked(row) for row in every]
        digests = [digest_of(b"".join([lines[position] for position in rows.positions(names, part)])) for part in _PARTS]
        each = [f"{name}:{rows.bucket_of(line[:-1]):x}" for name, line in zip(names, lines, strict=True)]
        return " ".join([rows.shape(every[0]), *digests, *each])

    try:
        return observer.derived(source.path, f"rows{_of(source)}", compute).split()
    except OSError as error:
        raise _unreadable(source.path, error) from error


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read", [("reason", (error.strerror or str(error)).lower())])
