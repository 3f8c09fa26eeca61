"""One action, from its inputs to its record: stage → rule.run → commit. Knows steps and the store, not the schedule."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata

from buildsys import machine, outside, rules
from buildsys.errors import os_failure
from buildsys.graph import Folder, Graph, Step
from buildsys.measurements import FOLDER as MEASURED
from buildsys.plan import Resolved
from buildsys.running import Report, Request, Runner
from buildsys.staging import Stage, changed
from buildsys.store.cache import Cache
from buildsys.store.fresh import signature
from buildsys.store.observe import Observer, file_digest
from buildsys.store.records import Artifact, Files


class Performer:
    """Makes artifacts for one build."""

    def __init__(self, graph: Graph, cache: Cache, observer: Observer, workers: Runner, artifacts: Mapping[str, Artifact]) -> None:
        self._cache, self._workers, self._observer = cache, workers, observer
        self._stage = Stage(graph, cache, observer, artifacts)

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
            paths = self._stage.inputs(step, resolved, space / "in")
            known = {MEASURED: str(self._cache.measurements)} if getattr(rule, "MEASURES", False) and not forced else {}
            settings = {**step.settings, **known}
            request = Request(step.rule, action.parameters, paths, action.inputs, out, partial, settings, log)
            facts = self._workers.run(request, report)
            self._unchanged(step, resolved)
            values = {name: json.loads((out / name).read_text()) for name in getattr(rule, "VALUES", ())}
            digests = facts.pop("digests", {})
            facts |= {"seconds": round(time.monotonic() - started, 3), "machine": machine.description(), "versions": _versions()}
            facts["time"] = datetime.now(UTC).isoformat(timespec="seconds")
            self._cache.adopt(partial / MEASURED, replacing=forced)
            return self._cache.commit(action, out, self._references(step), values, facts, digests, flush=rule.FLUSH, replacing=forced)

    def _unchanged(self, step: Step, resolved: Resolved) -> None:
        """Raises BuildError where a file of the user's, read directly or through an artifact that refers to it, is not what was planned."""
        for source in step.sources():
            for path in self._stage.outside_files(source):
                planned = self._observer.signature(path)
                if signature(str(path)) != planned and file_digest(path) != self._observer.digest(path):
                    raise changed(path)

    def _references(self, step: Step) -> Files:
        """The files that an artifact names: as they were hashed for its key, since they are unchanged."""
        role = getattr(rules.get(step.rule), "REFERS", None)
        source = step.inputs.get(role) if role else None
        if not isinstance(source, Folder):
            return {}
        places = [source.path / name for name in outside.files(source, self._observer.names(source.path))]
        return {place.name: (self._observer.digest(place), self._observer.size(place) or 0) for place in places}


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "transformers", "safetensors")}
