"""`build check TARGET`: every step of a target made again in a store of its own, and its digest compared. Changes nothing in the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from buildsys import machine, rules
from buildsys.action import Digest
from buildsys.debugging import InProcess
from buildsys.perform import Performer, versions
from buildsys.plan import Plan
from buildsys.running import Runner
from buildsys.staging import Stage
from buildsys.store.cache import Cache
from buildsys.store.observe import Observer
from buildsys.store.records import Artifact
from buildsys.workers import Workers


@dataclass(frozen=True)
class Comparison:
    """What became of one step.

    state    "not comparable": other bytes, on another kind of machine or with other versions of the libraries
    differs  for a file that came out otherwise: (digest in the cache, digest now), "" for none
    made_on, made_here  what differs between the two machines, "" where nothing does
    """

    state: Literal["same", "different", "not comparable", "not built"]
    recorded: Digest = ""
    made: Digest = ""
    differs: Mapping[str, tuple[Digest, Digest]] | None = None
    made_on: str = ""
    made_here: str = ""


def compare(
    plan: Plan, cache: Cache, observer: Observer, target: str, report: Callable[[str, str, float | None], None], *, debug: bool
) -> dict[str, Comparison]:
    """Each step of a target, by name. Raises BuildError where a step cannot be made."""
    artifacts = {name: one.artifact for name, one in plan.steps.items() if one.artifact}
    steps = [name for name in plan.graph.targets[target].steps if name in plan.steps]
    workers: Runner = InProcess() if debug else Workers(rules.preload([plan.graph.steps[name].rule for name in steps]))
    comparisons: dict[str, Comparison] = {}
    try:
        with cache.workspace() as space:
            scratch = Cache(space / "cache")
            scratch.prepare()
            performer = Performer(Stage(plan.graph, cache, observer, artifacts), scratch, workers)
            for name in steps:
                step, planned = plan.graph.steps[name], plan.steps[name]
                if planned.state not in ("fresh", "failed") or planned.artifact is None or planned.resolved is None:
                    comparisons[name] = Comparison("not built")
                    continue
                report(name, step.rule, None)
                made, _ = performer.perform(step, planned.resolved, partial(report, name), lambda: None, forced=True)
                comparisons[name] = _compared(planned.artifact.digest, _files(planned.artifact), planned.artifact.facts, made)
    finally:
        workers.close()
    return comparisons


def _files(artifact: Artifact) -> dict[str, Digest]:
    return {name: digest for name, (digest, _) in {**artifact.files, **artifact.references}.items()}


def _compared(recorded: Digest, files: Mapping[str, Digest], facts: Mapping[str, Any], made: Artifact) -> Comparison:
    if recorded == made.digest:
        return Comparison("same", recorded, made.digest)
    now = _files(made)
    differs = {
        name: (files.get(name, ""), now.get(name, "")) for name in sorted({*files, *now}) if files.get(name, "") != now.get(name, "")
    }
    there, here = _environment(facts.get("machine"), facts.get("versions")), _environment(machine.description(), versions())
    if there == here:
        return Comparison("different", recorded, made.digest, differs)
    return Comparison("not comparable", recorded, made.digest, differs, there, here)


def _environment(description: Any, numbers: Any) -> str:
    named = numbers if isinstance(numbers, Mapping) else {}
    return ", ".join([str(description), *(f"{name} {number}" for name, number in sorted(named.items()))])
