"""Graph + store -> plan: each step's key, whether its artifact is there, and why not. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from buildsys import action, card, outside, rules
from buildsys.action import Action, Digest
from buildsys.graph import MODEL_CARD, Folder, Graph, Output, Source, Step, Target, Value
from buildsys.rendering import Rendering
from buildsys.store import generations
from buildsys.store.cache import Cache
from buildsys.store.observe import Observer
from buildsys.store.outputs import Content
from buildsys.store.records import Artifact

State = Literal["fresh", "absent", "stale", "unknown", "failed", "skipped"]
Labels = dict[str, list[str]]


@dataclass(frozen=True)
class Resolved:
    """A step with every name replaced by what it means today.

    labels  a name for each entry of list inputs and parameters, in the order in which the action has them
    order   for a rule that sorts an input: the positions of the sorted entries in the step's own order
    """

    action: Action
    key: str
    labels: Labels
    order: tuple[int, ...] | None


@dataclass(frozen=True)
class StepPlan:
    state: State
    resolved: Resolved | None = None  # None: depends on the output of a stale step
    artifact: Artifact | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetPlan:
    state: State
    key: str | None
    digest: Digest | None
    reasons: tuple[str, ...] = ()
    output: str | None = None  # why cache/out/<target> has to be written again, if it has to


@dataclass(frozen=True)
class Plan:
    """steps: all that the selected targets need, in order. run: those of them that an executor has to look at."""

    graph: Graph
    selected: tuple[str, ...]
    steps: dict[str, StepPlan]
    targets: dict[str, TargetPlan]
    run: tuple[str, ...] = ()
    forced: frozenset[str] = field(default_factory=frozenset)

    def nothing_to_do(self) -> bool:
        return not self.run and not any(self.targets[name].output for name in self.selected)


def remade(plan: Plan) -> Plan:
    """A plan in which every step of the selected targets runs, whatever its state."""
    return replace(plan, run=tuple(step for name in plan.selected for step in plan.graph.targets[name].steps if step in plan.steps))


def resolve(step: Step, artifacts: Mapping[str, Artifact], rendering: Rendering) -> Resolved:
    """The action of a step, given the artifacts of all steps that it needs. The one place where keys come from."""
    rule, observer = rules.get(step.rule), rendering.observer
    inputs = {
        role: [_digest(one, artifacts, observer) for one in given] if isinstance(given, tuple) else _digest(given, artifacts, observer)
        for role, given in step.inputs.items()
    }
    given = rendering.parameters(step, step.parameters, artifacts)
    parameters = {name: _value(value, artifacts) for name, value in given.items()}
    labels = {name: list(entries) for name, entries in step.labels.items()}
    order = None
    if hasattr(rule, "SORTED"):
        lists = [(inputs if name in inputs else parameters, name) for name in rule.SORTED]
        entries = list(zip(*(given[name] for given, name in lists), strict=True))
        order = tuple(sorted(range(len(entries)), key=lambda i: [action.canonical_bytes(one) for one in entries[i]]))
        for given, name in lists:
            given[name] = [given[name][i] for i in order]
        labels = {name: [own[i] for i in order] if name in rule.SORTED else own for name, own in labels.items()}
    parameters = _completed(step.rule, parameters)
    found = Action(step.rule, rule.VERSION, parameters, inputs)
    return Resolved(found, found.key(), labels, order)


def _completed(rule: str, given: dict[str, Any]) -> dict[str, Any]:
    """All parameters of a rule in their types, defaults included but those of later fields; many steps are given the same."""
    same = (rule, repr(given))
    if same not in _COMPLETED:
        module = rules.get(rule)
        later = {name: module.Params.model_fields[name].get_default(call_default_factory=True) for name in getattr(module, "LATER", ())}
        found = module.Params(**given).model_dump()
        _COMPLETED[same] = {name: value for name, value in found.items() if name not in later or value != later[name]}
    return _COMPLETED[same]


_COMPLETED: dict[tuple[str, str], dict[str, Any]] = {}


def _digest(source: Source, artifacts: Mapping[str, Artifact], observer: Observer) -> Digest:
    if isinstance(source, Output):
        return artifacts[source.step].digest
    return outside.digest(source, observer)


def _value(given: Any, artifacts: Mapping[str, Artifact]) -> Any:
    if isinstance(given, list):
        return [_value(one, artifacts) for one in given]
    if isinstance(given, Value):
        field = given.field if isinstance(given.field, str) else artifacts[given.field.step].digest
        return artifacts[given.step].values[given.file][field]
    return given


def failed_verdict(step: Step, artifact: Artifact) -> bool:
    """A step that judges passes by what its verdict says; without one it has not passed."""
    verdicts = [values for values in artifact.values.values() if "passed" in values]
    return step.judges and (not verdicts or not all(values["passed"] is True for values in verdicts))


def make(graph: Graph, cache: Cache, observer: Observer, patterns: Sequence[str], *, force: bool = False) -> Plan:
    """The state of every step that the selected targets need, and of those targets."""
    selected = graph.selected(patterns)
    needed = graph.needed(selected)
    forced = frozenset(step for name in selected for step in graph.targets[name].steps) if force else frozenset()
    rendering = Rendering(graph, cache, observer)
    steps: dict[str, StepPlan] = {}
    artifacts: dict[str, Artifact] = {}
    for name in needed:
        steps[name] = _step(graph.steps[name], steps, artifacts, cache, rendering, name in forced)
        artifact = steps[name].artifact
        if artifact is not None and steps[name].state in ("fresh", "absent"):
            artifacts[name] = artifact
    run = _to_run(graph, needed, steps, selected)
    if run:
        stale = [name for name in run if steps[name].state == "stale"]
        history = cache.history.latest({graph.steps[name].target for name in stale})
        steps |= {name: _explained(graph.steps[name], steps[name], history, cache, name in forced) for name in stale}
    targets = {name: _target(graph.targets[name], steps) for name in _targets_of(graph, needed)}
    made = {name: one.artifact for name, one in steps.items() if one.artifact}
    resolved = {name: one.resolved for name, one in steps.items() if one.resolved}
    for name in selected:
        if targets[name].state == "fresh":
            expected = content(graph, graph.targets[name], made, resolved)
            targets[name] = replace(targets[name], output=cache.outputs.difference(name, expected, observer))
    return Plan(graph, tuple(selected), steps, targets, tuple(run), forced)


def _step(
    step: Step, steps: Mapping[str, StepPlan], artifacts: Mapping[str, Artifact], cache: Cache, rendering: Rendering, forced: bool
) -> StepPlan:
    blocked = [name for name in step.needs() if name not in artifacts]
    if blocked:
        failed = [name for name in blocked if steps[name].state in ("failed", "skipped")]
        state: State = "skipped" if failed else "unknown"
        how = "failed" if failed else "is not fresh"
        return StepPlan(state, reasons=tuple(f"{name} {how}" for name in (failed or blocked)))
    observer = rendering.observer
    resolved = resolve(step, artifacts, rendering)
    if forced:
        return StepPlan("stale", resolved, reasons=("forced",))
    artifact, problem = cache.usable(resolved.key, observer)
    if artifact is None:
        known = cache.records.read(resolved.key, observer)
        if known is None:
            return StepPlan("stale", resolved, reasons=(problem,) if resolved.key in cache.records.refused else ())
        return StepPlan("absent", resolved, known, (problem,))
    if failed_verdict(step, artifact):
        reason = next((values["reason"] for values in artifact.values.values() if "reason" in values), "its verdict is missing")
        return StepPlan("failed", resolved, artifact, (reason,))
    return StepPlan("fresh", resolved, artifact)


def _to_run(graph: Graph, needed: Sequence[str], steps: Mapping[str, StepPlan], selected: Iterable[str]) -> list[str]:
    """Stale steps, absent ones whose bytes somebody needs, and all that could change behind either of them."""
    own = {step for name in selected for step in graph.targets[name].steps}
    run: set[str] = set()
    read: set[str] = set()
    for name in reversed(needed):  # consumers before what they read
        state = steps[name].state
        if state != "fresh" and (state != "absent" or name in own or name in read):
            run.add(name)
            read.update(graph.steps[name].needs())
    for name in needed:
        if any(other in run for other in graph.steps[name].needs()):
            run.add(name)
    return [name for name in needed if name in run]


def _explained(step: Step, found: StepPlan, history: Mapping[str, generations.Generation], cache: Cache, forced: bool) -> StepPlan:
    if found.state != "stale" or forced or found.resolved is None or found.reasons:
        return found
    last = history.get(step.target)
    key = last.keys.get(step.name) if last else None
    if last is None or key is None:
        reasons = ["never built"]
    else:
        old = cache.records.read(key)
        new = found.resolved.action.document()
        if old is None:
            reasons = ["the record of its last build is gone"]
        else:
            reasons = action.changes(old.document, new, last.labels.get(step.name, {}), found.resolved.labels)
        reasons = reasons or ["its artifact is no longer recorded"]
    return StepPlan("stale", found.resolved, found.artifact, tuple(reasons))


def _targets_of(graph: Graph, needed: Iterable[str]) -> list[str]:
    names = {graph.steps[name].target for name in needed}
    return [name for name in graph.targets if name in names]


_WORST: tuple[State, ...] = ("failed", "skipped", "stale", "unknown", "absent", "fresh")


def _target(target: Target, steps: Mapping[str, StepPlan]) -> TargetPlan:
    own = [steps[name] for name in target.steps if name in steps]
    main = steps.get(target.step)
    if main and main.resolved and main.artifact and all(one.state == "fresh" for one in own):
        return TargetPlan("fresh", main.resolved.key, main.artifact.digest)
    state = min((one.state for one in own), key=_WORST.index)
    reasons = tuple(dict.fromkeys(reason for one in own if one.state == state for reason in one.reasons))
    known = main is not None and main.state in ("fresh", "absent", "failed")
    key = main.resolved.key if main and main.resolved else None
    digest = main.artifact.digest if main and main.artifact and known else None
    return TargetPlan(state, key, digest, reasons)


def content(graph: Graph, target: Target, artifacts: Mapping[str, Artifact], resolved: Mapping[str, Resolved]) -> Content:
    """What `cache/out/<target>` holds."""
    artifact, step = artifacts[target.step], graph.steps[target.step]
    links: dict[str, Path] = {}
    for source in step.inputs.values():
        if artifact.references and isinstance(source, Folder):
            links = {name: source.path / name for name in outside.checked(source, artifact.references)}
    if target.kind == "merged" or (target.kind == "base" and not links):
        return Content(artifact.files, links, {MODEL_CARD: _card(target, step, artifacts, resolved)})
    return Content(artifact.files, links)


def _card(target: Target, step: Step, artifacts: Mapping[str, Artifact], resolved: Mapping[str, Resolved]) -> bytes:
    found = resolved[step.name]
    names = found.labels.get("vectors", [])
    coefficients, digests = found.action.parameters.get("coefficients", []), found.action.inputs.get("vectors", [])
    vectors = sorted(zip(names, coefficients, digests, strict=True), key=lambda one: one[0])
    verdicts = {name: artifacts[f"verified-{name}"].values["verdict.json"] for name in names if f"verified-{name}" in artifacts}
    artifact = artifacts[target.step]
    return card.text(target.name, target.recipe, artifact.digest, vectors, verdicts, artifact.facts)
