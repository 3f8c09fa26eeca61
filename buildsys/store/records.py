"""`cache/actions`: key -> artifact. A record is written after its blobs; the first one for a key stays.

Owns what a record may say. One without a mark of this user is foreign, one that says something else is damaged: neither is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from buildsys import files
from buildsys.action import Digest, canonical_bytes, digest_of, digest_of_files
from buildsys.marks import Marks, without_mark
from buildsys.store.observe import Observer

FORMAT = 2  # 1 had no mark
_KIND = "record"  # of a mark
_UNMARKED_BYTES_MAX = 1 << 20
Files = dict[str, tuple[Digest, int]]  # name -> (digest, bytes)
Refusal = Literal["foreign", "damaged", "newer"]


@dataclass(frozen=True)
class Artifact:
    """A finished, immutable result.

    files       in the store
    references  outside it: a model in a folder of the user's is hashed, not copied
    values      what a plan reads of it (a chosen coefficient, a verdict); also part of a file
    facts       what was measured while making it; never part of the digest
    boot        the boot in which it was written without waiting for the disk, else ""
    """

    document: Mapping[str, Any]
    files: Files
    references: Files = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    boot: str = ""

    @cached_property
    def digest(self) -> Digest:
        return digest_of_files({name: digest for name, (digest, _) in {**self.files, **self.references}.items()})

    @property
    def size_bytes(self) -> int:
        return sum(size for _, size in {**self.files, **self.references}.values())


class Records:
    """refused  key -> why the record of that key is not used; filled as records are read"""

    def __init__(self, cache: Path, marks: Callable[[], Marks]) -> None:
        self.folder = cache / "actions"
        self.refused: dict[str, Refusal] = {}
        self._refused_as: dict[str, bytes] = {}  # the signature of a record that was refused: it is read once
        self._root = f"{self.folder}{os.sep}"
        self._marks = marks

    def path(self, key: str) -> Path:
        return Path(self._place(key))

    def _place(self, key: str) -> str:
        return f"{self._root}{key[:2]}{os.sep}{key[2:]}.json"

    def read(self, key: str, observer: Observer | None = None) -> Artifact | None:
        """The recorded artifact; None where there is none, and where it is not used. Raises BuildError for a link."""
        path = self._place(key)
        if observer is not None and key in self._refused_as and self._refused_as[key] == observer.signature(path):
            return None
        try:
            if observer is None:
                content = self._content(key, path)
            else:
                content = observer.derived(path, "record", lambda path: self._content(key, path))
            return _artifact(json.loads(content))
        except FileNotFoundError:
            return None
        except _RefusedError as refused:
            self.refused[key] = refused.why
            if observer is not None:
                self._refused_as[key] = observer.signature(path)
            return None

    def write(self, key: str, artifact: Artifact, *, flush: bool) -> None:
        content = {
            "format": FORMAT,
            "action": artifact.document,
            "files": artifact.files,
            "references": artifact.references,
            "values": artifact.values,
            "facts": artifact.facts,
            "boot": artifact.boot,
        }
        path = self.path(key)
        files.make_folder(path.parent)
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=True).encode()
        files.write_whole(path, self._marks().sealed(_KIND, key, text), flush=flush)
        self.refused.pop(key, None)
        self._refused_as.pop(key, None)

    def keys(self) -> list[str]:
        """Those of all records, used or not."""
        folders = [entry for entry in files.entries(self.folder) if entry.is_dir(follow_symlinks=False)]
        names = [folder.name + entry.name for folder in folders for entry in files.entries(folder.path)]
        return sorted(name.removesuffix(".json") for name in names if files.is_digest(name.removesuffix(".json")))

    def unmarked(self, key: str) -> Artifact:
        """What a record says, whoever wrote it. Raises OSError where it cannot be read, ValueError where it is not a record of this key."""
        data = files.read(self._place(key))
        return checked(key, without_mark(data) or data)

    def _content(self, key: str, path: str) -> str:
        """The text of a record that carries a valid mark. Raises _RefusedError."""
        try:
            data = files.read(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _RefusedError("damaged") from error
        content = self._marks().content(_KIND, key, data)
        if content is None:
            raise _RefusedError(_refusal(key, data))
        try:
            checked(key, content)
        except ValueError as error:
            raise _RefusedError("newer" if isinstance(error, NewerError) else "damaged") from error
        return content.decode()


class NewerError(ValueError):
    """Written by a newer program."""


class _RefusedError(Exception):
    def __init__(self, why: Refusal) -> None:
        super().__init__(why)
        self.why: Refusal = why


def _refusal(key: str, data: bytes) -> Refusal:
    """What a record without a valid mark is. A large one is not taken apart for that: whoever trusts it has it parsed."""
    if len(data) > _UNMARKED_BYTES_MAX:
        return "foreign"
    try:
        checked(key, without_mark(data) or data)
    except NewerError:
        return "newer"
    except ValueError:
        return "damaged"
    return "foreign"


def checked(key: str, text: bytes) -> Artifact:
    """A record's text as an artifact. Raises ValueError unless it is one of this key: its shape, its names, its digests, its action."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(content, dict):
        raise ValueError("not an object")
    number = content.get("format", 1)
    if type(number) is int and number > FORMAT:
        raise NewerError(f"format {number}")
    if number not in (1, FORMAT) or content.keys() - {"format"} != _FIELDS:
        raise ValueError("not the fields of a record")
    for name in ("files", "references"):
        _check_files(content[name])
    if not all(isinstance(content[name], dict) for name in ("action", "values", "facts")) or not isinstance(content["boot"], str):
        raise ValueError("not the types of a record")
    if not all(isinstance(value, dict) for value in content["values"].values()):
        raise ValueError("values are not objects")
    try:
        recorded = digest_of(canonical_bytes(content["action"]))
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError("an action without a canonical form") from error
    if recorded != key:
        raise ValueError("the action of another key")
    return _artifact(content)


_FIELDS = {"action", "files", "references", "values", "facts", "boot"}


def _check_files(listed: object) -> None:
    if not isinstance(listed, dict):
        raise ValueError("files are not an object")
    for name, entry in listed.items():
        if not files.is_plain_name(name):
            raise ValueError(f"{name!r} is not the name of a file")
        if not isinstance(entry, list) or len(entry) != 2 or not files.is_digest(entry[0]) or type(entry[1]) is not int or entry[1] < 0:
            raise ValueError(f"{name!r} has no digest and size")


def _artifact(content: Mapping[str, Any]) -> Artifact:
    return Artifact(
        content["action"],
        {name: (digest, size) for name, (digest, size) in content["files"].items()},
        {name: (digest, size) for name, (digest, size) in content["references"].items()},
        content["values"],
        content["facts"],
        content["boot"],
    )
