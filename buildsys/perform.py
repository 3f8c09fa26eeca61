"""One action, from its inputs to its record: stage → rule.run → commit. Knows steps and the store, not the schedule."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata

from buildsys import files, machine, outside, rules, trees
from buildsys.errors import BuildError, os_failure
from buildsys.graph import Folder, Step
from buildsys.measurements import FOLDER as MEASURED
from buildsys.plan import Resolved
from buildsys.running import Report, Request, Runner
from buildsys.staging import Stage, changed
from buildsys.store.cache import Cache
from buildsys.store.fresh import signature
from buildsys.store.observe import racy
from buildsys.store.records import Artifact, Files
from buildsys.training import resuming

_TICK_SECONDS = 0.025  # longer than the step of a fine file clock
_COARSE_TICK_SECONDS = 2.1  # and of one that counts whole seconds


class Performer:
    """Makes artifacts from what a stage shows, and keeps them in a cache."""

    def __init__(self, stage: Stage, cache: Cache, workers: Runner) -> None:
        self._stage, self._cache, self._workers, self._observer = stage, cache, workers, stage.observer

    def perform(
        self, step: Step, resolved: Resolved, report: Report, waiting: Callable[[], None], *, forced: bool
    ) -> tuple[Artifact, bool]:
        """(the artifact of a step, True if it was made here). One build at a time makes a key; the others then take it.

        Raises BuildError; nothing is recorded then.
        """
        key = resolved.key
        try:
            with self._cache.lock(key, waiting):
                found = None if forced else self._cache.usable(key, self._cache.glance())[0]
                if found is not None:
                    return found, False
                if not forced:
                    refuse_foreign_training(step, key, self._cache)
                made = self._made(step, resolved, report, forced)
                trees.remove(self._cache.partial(key))
                return made, True
        except OSError as error:
            raise os_failure(error, f"{step.name} could not be stored") from error

    def _made(self, step: Step, resolved: Resolved, report: Report, forced: bool) -> Artifact:
        rule, action, key = rules.get(step.rule), resolved.action, resolved.key
        started = time.monotonic()
        partial = self._cache.partial(key)
        if forced:
            trees.remove(partial)  # a forced run begins at the beginning
        if os.path.lexists(partial) and not trees.is_plain_tree(partial):
            trees.remove(partial)
        files.make_folder(partial)
        log = self._cache.log(key)
        files.write_whole(log, b"", flush=False)
        with self._cache.workspace() as space:
            out = space / "out"
            out.mkdir()
            paths = self._stage.inputs(step, resolved, space / "in")
            known = {MEASURED: str(self._cache.measurements)} if getattr(rule, "MEASURES", False) and not forced else {}
            settings = {**step.settings, **known}
            request = Request(step.rule, action.parameters, paths, action.inputs, out, partial, settings, log, self._cache.folder)
            begun = self._signatures(step)
            facts = self._workers.run(request, report)
            for path, before in begun.items():
                if signature(path) != before:
                    raise changed(path)
            values = {name: json.loads((out / name).read_text()) for name in getattr(rule, "VALUES", ())}
            digests = facts.pop("digests", {})
            facts |= {"seconds": round(time.monotonic() - started, 3), "machine": machine.description(), "versions": versions()}
            facts["time"] = datetime.now(UTC).isoformat(timespec="seconds")
            self._cache.adopt(partial / MEASURED, replacing=forced)
            return self._cache.commit(action, out, self._references(step), values, facts, digests, flush=rule.FLUSH, replacing=forced)

    def _signatures(self, step: Step) -> dict[str, bytes]:
        """The signature of every file of the user's that a step reads in place, directly or through an artifact that refers to it.

        Waits until a further write would move it, as long as a step of the file clock can be: a time in the future, or a file that is
        written to without end, is not waited for. Raises BuildError where a file does not hold what was planned.
        """
        paths = {str(path) for source in step.sources() for path in self._stage.outside_files(source)}
        signatures = {path: signature(path) for path in paths}
        deadline = time.monotonic() + _COARSE_TICK_SECONDS
        while any(racy(one, time.time_ns()) for one in signatures.values()) and time.monotonic() < deadline:
            time.sleep(_TICK_SECONDS)
            signatures = {path: signature(path) for path in paths}
        for path, found in signatures.items():
            if found != self._observer.signature(path) and files.digest(path) != self._observer.digest(path):
                raise changed(path)
        return signatures

    def _references(self, step: Step) -> Files:
        """The files that an artifact names: as they were hashed for its key, since they are unchanged."""
        role = getattr(rules.get(step.rule), "REFERS", None)
        source = step.inputs.get(role) if role else None
        if not isinstance(source, Folder):
            return {}
        places = [source.path / name for name in outside.files(source, self._observer)]
        return {place.name: (self._observer.digest(place), self._observer.size(place) or 0) for place in places}


def refuse_foreign_training(step: Step, key: str, cache: Cache) -> None:
    """Raises BuildError where a step would train because the record of its result is not used: somebody should look first."""
    if not rules.get(step.rule).FLUSH:
        return
    strange = resuming.foreign(cache.partial(key), cache.marks)
    if strange:
        raise BuildError(
            f"{step.name} would be trained from the start: its checkpoint carries no mark of yours",
            [("checkpoint", str(strange[0]))],
            f"'build cache trust' adopts a cache that you trust; 'build --force {step.target}' trains from the start",
        )
    if key not in cache.records.refused:
        return
    why = {"foreign": "carries no mark of yours", "damaged": "is damaged", "newer": "is of a newer buildsys"}[cache.records.refused[key]]
    raise BuildError(
        f"{step.name} would be trained again: the record of its result {why}",
        [("record", str(cache.records.path(key)))],
        f"'build cache trust' adopts a cache that you trust; 'build --force {step.target}' trains again",
    )


def versions() -> dict[str, str]:
    """Of the libraries that a result may depend on."""
    return {name: metadata.version(name) for name in ("torch", "transformers", "safetensors")}
