"""The stale part of a plan, made and shown: what happens to each step, and what becomes of each target. `schedule` owns the order."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from buildsys import failures, rules, schedule, verdicts
from buildsys.action import Digest
from buildsys.debugging import InProcess
from buildsys.errors import BuildError, Interrupted, os_failure
from buildsys.graph import Step, Target
from buildsys.perform import Performer
from buildsys.plan import Plan, Resolved, content, failed_verdict, resolve
from buildsys.rendering import Rendering
from buildsys.running import Runner
from buildsys.staging import Stage
from buildsys.store.cache import Cache
from buildsys.store.observe import Observer
from buildsys.store.records import Artifact
from buildsys.workers import Workers


class Watcher(Protocol):
    """Who is told what happens, from several threads."""

    def started(self, step: Step) -> None: ...
    def progress(self, step: Step, text: str, share: float | None) -> None: ...
    def ended(self, step: Step, seconds: float) -> None: ...
    def noted(self, step: Step, text: str) -> None: ...
    def failed(self, step: Step, error: BuildError) -> None: ...


@dataclass(frozen=True)
class Result:
    """What became of one target."""

    state: Literal["built", "fresh", "failed", "skipped"]
    key: str | None = None
    digest: Digest | None = None
    seconds: float = 0.0
    why: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: BuildError | None = None
    log: str | None = None


@dataclass(frozen=True)
class Outcome:
    targets: dict[str, Result]

    @property
    def exit_code(self) -> int:
        return 1 if any(result.state in ("failed", "skipped") for result in self.targets.values()) else 0

    def count(self, state: str) -> int:
        return sum(result.state == state for result in self.targets.values())


def execute(plan: Plan, cache: Cache, observer: Observer, watcher: Watcher, *, jobs: int, keep_going: bool, debug: bool = False) -> Outcome:
    """Make what the plan found stale, and put every finished target where people use it. Raises Interrupted on Ctrl-C.

    debug  run steps in this thread, one at a time, so that a debugger in one of them has the terminal
    """
    run = _Run(plan, cache, observer, watcher, jobs, debug)
    seen: list[int] = []

    def interrupted(number: int, frame: Any) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        outcome = run.all(keep_going)
        if seen and not debug:  # Python drops what is raised inside a callback of its own
            raise KeyboardInterrupt
        return outcome
    except KeyboardInterrupt as error:
        hint = "what was finished is kept; a training goes on from its last checkpoint"
        raise Interrupted("interrupted", hint=hint) from error
    finally:
        signal.signal(signal.SIGINT, before)
        run.workers.close()


class _Run:
    """The changing state of one build: artifacts as they come, and what happened to each step."""

    def __init__(self, plan: Plan, cache: Cache, observer: Observer, watcher: Watcher, jobs: int, debug: bool) -> None:
        self.plan, self.cache, self.observer, self.watcher = plan, cache, observer, watcher
        self.rendering = Rendering(plan.graph, cache, observer)
        self.jobs, self.debug = jobs, debug
        self.inside = frozenset(plan.run)
        self.resolved: dict[str, Resolved] = {name: one.resolved for name, one in plan.steps.items() if one.resolved}
        self.artifacts: dict[str, Artifact] = {
            name: one.artifact for name, one in plan.steps.items() if one.artifact and one.state in ("fresh", "absent")
        }
        self.errors: dict[str, BuildError] = {}
        self.logs: dict[str, Path | None] = {}  # of failures that nobody foresaw
        self.seconds: dict[str, float] = {}
        self.done: set[str] = set()
        self.history = cache.history.latest({*plan.selected, *(plan.graph.steps[name].target for name in plan.run)})
        self.workers: Runner = InProcess() if debug else Workers(rules.preload([plan.graph.steps[name].rule for name in plan.run]))
        self.performer = Performer(Stage(plan.graph, cache, observer, self.artifacts), cache, self.workers)

    def all(self, keep_going: bool) -> Outcome:
        for name in self.plan.selected:
            if self.plan.targets[name].output and self.plan.graph.targets[name].step not in self.inside:
                self._publish(self.plan.graph.targets[name])
        needs = {name: [need for need in self.plan.graph.steps[name].needs() if need in self.inside] for name in self.plan.run}
        schedule.run(needs, self, jobs=self.jobs, keep_going=keep_going, one_thread=self.debug)
        return Outcome({name: self._result(target) for name, target in self._targets().items()})

    # asked by the schedule

    def up_to_date(self, name: str) -> bool:
        """True where the step's artifact is there already, given what its inputs came out as."""
        step = self.plan.graph.steps[name]
        resolved = resolve(step, self.artifacts, self.rendering)
        self.resolved[name] = resolved
        if name in self.plan.forced:
            return False
        artifact, _ = self.cache.usable(resolved.key, self.cache.glance())
        if artifact is None or failed_verdict(step, artifact):
            return False
        self.artifacts[name] = artifact
        self._finished(step)
        return True

    def make(self, name: str) -> BuildError | None:
        """Make one step in this thread; what went wrong, or None."""
        step = self.plan.graph.steps[name]
        started = time.monotonic()
        try:
            self.watcher.started(step)
            artifact, made = self.performer.perform(
                step,
                self.resolved[name],
                lambda text, share: self.watcher.progress(step, text, share),
                lambda: self.watcher.progress(step, "waiting for another build that makes it", None),
                forced=name in self.plan.forced,
            )
            if failed_verdict(step, artifact):
                raise verdicts.error(step.target, artifact, self._kept(self.plan.graph.targets[step.target]))
            self.artifacts[name] = artifact
            if made:
                self.seconds[name] = time.monotonic() - started
                for note in step.notes:
                    self.watcher.noted(step, note)
                if "rows_cut" in artifact.facts:
                    self.watcher.noted(step, cut_rows(artifact.facts))
            self._finished(step)
            self.watcher.ended(step, time.monotonic() - started)
        except Exception as error:
            return self.failed(name, error)
        return None

    # after a step

    def _finished(self, step: Step) -> None:
        self.done.add(step.name)
        target = self.plan.graph.targets[step.target]
        if all(name in self.done or (name in self.plan.steps and name not in self.inside) for name in target.steps):
            self._publish(target)

    def _publish(self, target: Target) -> None:
        """Show a finished target in cache/out, and add it to the history if it came out new."""
        try:
            keys = {step: self.resolved[step].key for step in target.steps}
            last = self.history.get(target.name)
            if last is None or last.keys != keys:
                labels = {step: self.resolved[step].labels for step in target.steps}
                self.cache.history.append(target.name, self.artifacts[target.step].digest, keys, labels)
            with self.cache.lock(f"out-{target.name}"):
                expected = content(self.plan.graph, target, self.artifacts, self.resolved)
                if self.cache.outputs.difference(target.name, expected, self.cache.glance()):
                    self.cache.publish(target.name, expected)
                self.cache.admit(target.name)
        except OSError as error:
            raise os_failure(error, f"cache/out/{target.name} could not be written") from error

    def _kept(self, target: Target) -> str:
        """Where a model that its checks refused stays for inspection, "" for a target that is its verdict; `cache/out` does not move."""
        artifact = self.artifacts.get(target.step)
        if artifact is None:
            return ""
        try:
            with self.cache.lock(f"out-{target.name}"):
                self.cache.publish(target.name, content(self.plan.graph, target, self.artifacts, self.resolved), refused=True)
        except OSError as error:
            raise os_failure(error, f"cache/refused/{target.name} could not be written") from error
        return f"cache/refused/{target.name}"

    def _targets(self) -> dict[str, Target]:
        return {name: self.plan.graph.targets[name] for name in self.plan.targets}

    def _result(self, target: Target) -> Result:
        planned = self.plan.targets[target.name]
        resolved, artifact = self.resolved.get(target.step), self.artifacts.get(target.step)
        failed = [step for step in target.steps if step in self.errors]
        if failed:
            log = self._log(failed[0])
            key = self.resolved[failed[0]].key if failed[0] in self.resolved else None
            return Result("failed", key, error=self.errors[failed[0]], log=str(log) if log else None, why=planned.reasons)
        unfinished = [step for step in target.steps if step in self.inside and step not in self.done]
        if unfinished:
            return Result("skipped", why=planned.reasons)
        seconds = sum(self.seconds.get(step, 0.0) for step in target.steps)
        built = any(step in self.seconds for step in target.steps)
        facts = artifact.facts if artifact else {}
        return Result(
            "built" if built else "fresh",
            resolved.key if resolved else None,
            artifact.digest if artifact else None,
            round(seconds, 3),
            planned.reasons if built else (),
            facts,
        )

    def failed(self, name: str, error: Exception) -> BuildError:
        """Note what kept a step from being made. What nobody foresaw is told with its traceback in a log."""
        failure = error
        if not isinstance(failure, BuildError):
            failure = failures.unexpected(error, hint="" if self.debug else failures.HINT)
            key = self.resolved[name].key if name in self.resolved else None
            self.logs[name] = failures.logged(error, self.cache.folder / "logs", f"{key}.log" if key else None)
        self.errors[name] = failure
        with suppress(Exception):  # what it says may be what failed
            self.watcher.failed(self.plan.graph.steps[name], failure)
        return failure

    def _log(self, name: str) -> Path | None:
        """What a step that failed has written, or a traceback of ours."""
        if name in self.logs:
            return self.logs[name]
        log = self.cache.log(self.resolved[name].key) if name in self.resolved else None
        return log if log is not None and log.exists() else None


def cut_rows(facts: Mapping[str, Any]) -> str:
    """What happened to rows that were longer than the context."""
    number, total, longest = facts["rows_cut"], facts["rows"], facts["max_length"]
    return f"{number} of {total} rows were longer than {longest} tokens and lost their beginning"
