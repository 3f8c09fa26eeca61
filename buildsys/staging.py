"""Artifacts and the user's files as a rule reads them: links in a folder, copies of what may run. Knows steps and the store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildsys import files, outside, rules
from buildsys.action import Digest
from buildsys.errors import BuildError
from buildsys.examples import rows
from buildsys.graph import Folder, Graph, Output, Rows, Source, Step, Text
from buildsys.plan import Resolved
from buildsys.store.cache import Cache
from buildsys.store.observe import Observer
from buildsys.store.records import Artifact


@dataclass(frozen=True)
class Stage:
    """artifacts  of the steps that are done; it may grow behind our back"""

    graph: Graph
    cache: Cache
    observer: Observer
    artifacts: Mapping[str, Artifact]

    def inputs(self, step: Step, resolved: Resolved, folder: Path) -> dict[str, Any]:
        """For each role a path, or a list in the order of the action. Raises BuildError for rows that changed since they were hashed."""
        folder.mkdir()
        rule = rules.get(step.rule)
        is_sorted = getattr(rule, "SORTED", ())
        paths: dict[str, Any] = {}
        for role, given in step.inputs.items():
            digests = resolved.action.inputs[role]
            if isinstance(given, tuple):
                order = resolved.order if role in is_sorted and resolved.order else range(len(given))
                paths[role] = [
                    self._one(role, given[position], digests[at], folder / f"{role}-{at:05}") for at, position in enumerate(order)
                ]
            else:
                assert isinstance(digests, str)
                paths[role] = self._one(role, given, digests, folder / role)
        return paths

    def _one(self, role: str, source: Source, digest: Digest, place: Path) -> Path:
        if isinstance(source, Output):
            self.artifact(self.graph.steps[source.step], place)
        elif isinstance(source, Rows):
            picked = outside.picked_rows(source)
            if rows.digest(picked) != digest:
                raise changed(source.path)
            place.write_bytes(rows.serialised(picked))
        elif isinstance(source, Folder):
            return source.path  # as it stands, so that an error names the user's own file
        elif role == rules.CODE:  # what runs is what was hashed and allowed, whatever becomes of the user's file meanwhile
            shutil.copyfile(source.path, place)
            if files.digest(place) != digest:
                raise changed(source.path)
        else:
            place.symlink_to(source.path)
        return place

    def artifact(self, step: Step, place: Path) -> None:
        """An artifact's own files, the user's files that it refers to, and the inputs that it carries along."""
        artifact = self.artifacts[step.name]
        self.cache.staged(artifact, place)
        for source in step.sources():
            if isinstance(source, Folder):
                for name in outside.checked(source, artifact.references):
                    (place / name).symlink_to(source.path / name)
        for role in getattr(rules.get(step.rule), "CARRIES", ()):
            carried = step.inputs[role]
            assert isinstance(carried, Output)
            self.artifact(self.graph.steps[carried.step], place / role)

    def outside_files(self, source: Source) -> Iterator[Path]:
        """The user's own files that a rule reads in place."""
        if isinstance(source, Text):
            yield source.path
        elif isinstance(source, Folder):
            yield from (source.path / name for name in outside.files(source, self.observer))
        elif isinstance(source, Output):
            step = self.graph.steps[source.step]
            carried = [step.inputs[role] for role in getattr(rules.get(step.rule), "CARRIES", ())]
            for inner in [*(one for one in step.sources() if isinstance(one, Folder) and self.artifacts[step.name].references), *carried]:
                assert not isinstance(inner, tuple)
                yield from self.outside_files(inner)


def changed(path: Path | str) -> BuildError:
    return BuildError("an input changed while it was read", [("input", str(path))], "build again")
