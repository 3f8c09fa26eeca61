"""One action, from its inputs to its record: stage → rule.run → commit. Knows steps and the store, not the schedule."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from buildsys import machine, outside, rules
from buildsys.action import Digest
from buildsys.errors import BuildError, os_failure
from buildsys.examples import rows
from buildsys.graph import Folder, Graph, Output, Rows, Source, Step, Text
from buildsys.plan import Resolved
from buildsys.store.cache import Cache
from buildsys.store.fresh import signature
from buildsys.store.observe import Observer, file_digest
from buildsys.store.records import Artifact, Files
from buildsys.workers import Report, Request, Workers


class Performer:
    """Makes artifacts for one build."""

    def __init__(self, graph: Graph, cache: Cache, observer: Observer, workers: Workers, artifacts: Mapping[str, Artifact]) -> None:
        self._graph, self._cache, self._workers, self._artifacts = graph, cache, workers, artifacts
        self._observer = observer

    def perform(
        self, step: Step, resolved: Resolved, report: Report, waiting: Callable[[], None], *, forced: bool
    ) -> tuple[Artifact, bool]:
        """(the artifact of a step, True if it was made here). One build at a time makes a key; the others then take it.

        Raises BuildError; nothing is recorded then.
        """
        key = resolved.key
        try:
            with self._cache.lock(key, waiting):
                found = None if forced else self._cache.usable(key, Observer(None))[0]
                if found is not None:
                    return found, False
                made = self._made(step, resolved, report, forced)
                shutil.rmtree(self._cache.partial(key), ignore_errors=True)
                return made, True
        except OSError as error:
            raise os_failure(error, f"{step.name} could not be stored") from error

    def _made(self, step: Step, resolved: Resolved, report: Report, forced: bool) -> Artifact:
        rule, action, key = rules.get(step.rule), resolved.action, resolved.key
        started = time.monotonic()
        partial = self._cache.partial(key)
        if forced:
            shutil.rmtree(partial, ignore_errors=True)  # a forced run begins at the beginning
        partial.mkdir(parents=True, exist_ok=True)
        log = self._cache.log(key)
        log.write_bytes(b"")
        with self._cache.workspace() as space:
            out = space / "out"
            out.mkdir()
            paths = self._staged(step, resolved, space / "in")
            request = Request(step.rule, action.parameters, paths, action.inputs, out, partial, step.settings, log)
            facts = self._workers.run(request, report)
            self._unchanged(step, resolved)
            values = {name: json.loads((out / name).read_text()) for name in getattr(rule, "VALUES", ())}
            digests = facts.pop("digests", {})
            facts |= {"seconds": round(time.monotonic() - started, 3), "machine": machine.description(), "versions": _versions()}
            facts["time"] = datetime.now(UTC).isoformat(timespec="seconds")
            return self._cache.commit(action, out, self._references(step), values, facts, digests, flush=rule.FLUSH, replacing=forced)

    def _staged(self, step: Step, resolved: Resolved, folder: Path) -> dict[str, Any]:
        """For each role a path, or a list in the order of the action."""
        folder.mkdir()
        rule = rules.get(step.rule)
        sorted_role = rule.SORTED[0] if hasattr(rule, "SORTED") else None
        paths: dict[str, Any] = {}
        for role, given in step.inputs.items():
            digests = resolved.action.inputs[role]
            if isinstance(given, tuple):
                order = resolved.order if role == sorted_role and resolved.order else range(len(given))
                paths[role] = [
                    self._staged_one(given[position], digests[at], folder / f"{role}-{at:05}") for at, position in enumerate(order)
                ]
            else:
                assert isinstance(digests, str)
                paths[role] = self._staged_one(given, digests, folder / role)
        return paths

    def _staged_one(self, source: Source, digest: Digest, place: Path) -> Path:
        if isinstance(source, Output):
            self._staged_artifact(self._graph.steps[source.step], place)
        elif isinstance(source, Rows):
            picked = rows.part(rows.parse(source.path.read_bytes(), str(source.path)), source.part)
            if rows.digest(picked) != digest:
                raise _changed(source.path)
            place.write_bytes(rows.serialised(picked))
        elif isinstance(source, Folder):
            return source.path  # as it stands, so that an error names the user's own file
        else:
            place.symlink_to(source.path)
        return place

    def _staged_artifact(self, step: Step, place: Path) -> None:
        """An artifact's own files, the user's files that it refers to, and the inputs that it carries along."""
        artifact = self._artifacts[step.name]
        self._cache.staged(artifact, place)
        for source in step.sources():
            if isinstance(source, Folder):
                for name in artifact.references:
                    (place / name).symlink_to(source.path / name)
        for role in getattr(rules.get(step.rule), "CARRIES", ()):
            carried = step.inputs[role]
            assert isinstance(carried, Output)
            self._staged_artifact(self._graph.steps[carried.step], place / role)

    def _unchanged(self, step: Step, resolved: Resolved) -> None:
        """Raises BuildError where a file of the user's, read directly or through an artifact that refers to it, is not what was planned."""
        for source in step.sources():
            for path in self._outside_files(source):
                planned = self._observer.signature(path)
                if signature(str(path)) != planned and file_digest(path) != self._observer.digest(path):
                    raise _changed(path)

    def _outside_files(self, source: Source) -> Iterator[Path]:
        """The user's own files that a rule reads in place."""
        if isinstance(source, Text):
            yield source.path
        elif isinstance(source, Folder):
            yield from (source.path / name for name in outside.files(source, self._observer.names(source.path)))
        elif isinstance(source, Output):
            step = self._graph.steps[source.step]
            carried = [step.inputs[role] for role in getattr(rules.get(step.rule), "CARRIES", ())]
            for inner in [*(one for one in step.sources() if isinstance(one, Folder) and self._artifacts[step.name].references), *carried]:
                assert not isinstance(inner, tuple)
                yield from self._outside_files(inner)

    def _references(self, step: Step) -> Files:
        """The files that an artifact names: as they were hashed for its key, since they are unchanged."""
        role = getattr(rules.get(step.rule), "REFERS", None)
        source = step.inputs.get(role) if role else None
        if not isinstance(source, Folder):
            return {}
        places = [source.path / name for name in outside.files(source, self._observer.names(source.path))]
        return {place.name: (self._observer.digest(place), self._observer.size(place) or 0) for place in places}


def _changed(path: Path) -> BuildError:
    return BuildError("an input changed while it was read", [("input", str(path))], "build again")


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "transformers", "safetensors")}
