"""`build cache trust`: what a cache says without a mark of this user's, checked against its bytes, and marked.

Owns what can be checked of foreign words: shapes, keys, digests, and values against the files that hold them. That a recipe gave these
bytes is what the user says by trusting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from buildsys import files, measurements, strict, trees
from buildsys.errors import BuildError
from buildsys.store import generations
from buildsys.store.cache import Cache
from buildsys.store.records import Artifact
from buildsys.training import resuming

Report = Callable[[str], None]
ValuesOf = Callable[[str], Collection[str] | None]


@dataclass
class Foreign:
    """What carries no mark of this user's.

    records       keys; measurements: names; checkpoints: folders
    generations   lines of the history
    """

    records: list[str] = field(default_factory=list)
    measurements: list[str] = field(default_factory=list)
    generations: list[bytes] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)

    def number(self) -> int:
        return len(self.records) + len(self.measurements) + len(self.generations) + len(self.checkpoints)


@dataclass
class Adoption:
    """How many of each kind were adopted, and (path, reason) of what was not."""

    adopted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("records", "measurements", "generations", "checkpoints"), 0))
    left: list[tuple[str, str]] = field(default_factory=list)


def foreign(cache: Cache) -> Foreign:
    """All that a build would not use for the lack of a mark."""
    folders = [entry for entry in files.entries(cache.measurements) if entry.is_dir(follow_symlinks=False)]
    names = [f"{folder.name}/{entry.name}" for folder in folders for entry in files.entries(folder.path)]
    return Foreign(
        [key for key in cache.records.keys() if cache.records.read(key) is None],  # noqa: SIM118  # not a dictionary
        [name for name in sorted(names) if measurements.read(cache.measurements, name, cache.marks) is None],
        [line for line in cache.history.lines() if cache.history.generation(line) is None],
        [path for folder in partial_folders(cache) for path in resuming.foreign(folder, cache.marks)],
    )


def partial_folders(cache: Cache) -> list[Path]:
    """Where killed trainings have left something: folders named for keys, without links or pipes."""
    entries = [entry for entry in files.entries(cache.folder / "partial") if files.is_digest(entry.name)]
    return [Path(entry.path) for entry in entries if trees.is_plain_tree(entry.path)]


def adopt(cache: Cache, found: Foreign, values_of: ValuesOf, report: Report) -> Adoption:
    """Mark what fits together; the rest stays as it is, and is not used. Objects are hashed.

    values_of  the names of the values that artifacts of a rule have; None for a rule that there is not
    """
    adoption = Adoption()
    for number, key in enumerate(found.records, 1):
        report(f"record {number} of {len(found.records)}")
        try:
            artifact = cache.records.unmarked(key)
            _check_values(artifact, values_of)
            _check_bytes(cache, artifact)
            cache.records.write(key, artifact, flush=True)
            adoption.adopted["records"] += 1
        except (OSError, ValueError, BuildError) as error:
            adoption.left.append((os.path.relpath(cache.records.path(key), cache.folder), _reason(error)))
    for name in found.measurements:
        try:
            document, numbers = measurements.unmarked(cache.measurements, name)
            measurements.write(cache.measurements, name, document, numbers, cache.marks)
            adoption.adopted["measurements"] += 1
        except (OSError, ValueError, BuildError) as error:
            adoption.left.append((f"{measurements.FOLDER}/{name}", _reason(error)))
    for checkpoint in found.checkpoints:
        try:
            resuming.adopt(checkpoint, cache.marks)
            adoption.adopted["checkpoints"] += 1
        except (OSError, ValueError, BuildError) as error:
            adoption.left.append((os.path.relpath(checkpoint, cache.folder), _reason(error)))
    _adopt_history(cache, found.generations, adoption)
    cache.stat_cache.save()
    return adoption


def _adopt_history(cache: Cache, lines: list[bytes], adoption: Adoption) -> None:
    """The whole history again, in its order: lines of ours as they are, foreign ones marked."""
    if not lines:
        return
    strange = set(lines)
    history = []
    for line in cache.history.lines():
        if line not in strange:
            history.append(line)
            continue
        try:
            history.append(cache.history.marked(generations.unmarked(line)))
            adoption.adopted["generations"] += 1
        except ValueError as error:
            adoption.left.append((cache.history.path.name, _reason(error)))
    files.write_whole(cache.history.path, b"".join(line + b"\n" for line in history), flush=True)


def _check_values(artifact: Artifact, values_of: ValuesOf) -> None:
    """Raises ValueError for an artifact that its rule would not have made: a verdict that is missing is none that failed."""
    names = values_of(str(artifact.document.get("rule")))
    if names is None:
        raise ValueError("there is no rule of that name")
    if set(artifact.values) != set(names):
        raise ValueError("it lacks a value of its rule")


def _check_bytes(cache: Cache, artifact: Artifact) -> None:
    """Raises ValueError where a stored file is not what the record says, or where a value is not what its file says."""
    for name, (digest, size) in artifact.files.items():
        path = cache.objects.path(digest)
        if os.path.lexists(path) and (os.lstat(path).st_size != size or not cache.objects.verified(digest)):
            raise ValueError(f"{name} is damaged")
    for name, value in artifact.values.items():
        entry = artifact.files.get(name)
        if entry is None or not os.path.lexists(cache.objects.path(entry[0])):
            raise ValueError(f"the file that holds {name} is missing")
        try:
            recorded = strict.json_value(files.read(cache.objects.path(entry[0])), files.RECORD_BYTES_MAX)
        except strict.Malformed as error:
            raise ValueError(f"{name} {error}") from error
        if recorded != value:
            raise ValueError(f"it says something else of {name} than the file does")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return error.headline if isinstance(error, BuildError) else str(error)
