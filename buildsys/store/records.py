"""`cache/actions`: key -> artifact. A record is written after its blobs; the first one for a key stays."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from buildsys.action import Digest, digest_of_files
from buildsys.store.objects import write_whole
from buildsys.store.observe import Observer

Files = dict[str, tuple[Digest, int]]  # name -> (digest, bytes)


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
    def __init__(self, cache: Path) -> None:
        self.folder = cache / "actions"
        self._root = f"{self.folder}{os.sep}"

    def path(self, key: str) -> Path:
        return Path(self._place(key))

    def _place(self, key: str) -> str:
        return f"{self._root}{key[:2]}{os.sep}{key[2:]}.json"

    def read(self, key: str, observer: Observer | None = None) -> Artifact | None:
        """The recorded artifact, or None. A record that does not parse counts as none: it is made again."""
        place = self._place(key)
        try:
            given = json.loads(_text(place) if observer is None else observer.derived(place, "record", _text))
            return Artifact(
                given["action"],
                {name: (digest, size) for name, (digest, size) in given["files"].items()},
                {name: (digest, size) for name, (digest, size) in given["references"].items()},
                given["values"],
                given["facts"],
                given["boot"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, key: str, artifact: Artifact, *, flush: bool) -> None:
        given = {
            "action": artifact.document,
            "files": artifact.files,
            "references": artifact.references,
            "values": artifact.values,
            "facts": artifact.facts,
            "boot": artifact.boot,
        }
        write_whole(self.path(key), json.dumps(given, separators=(",", ":"), ensure_ascii=False).encode(), flush=flush)

    def remove(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)


def _text(place: str) -> str:
    with open(place, encoding="utf-8") as file:
        return file.read()
