"""Plans, outcomes and artifacts as text and as JSON. Owns how they look, decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildsys import verdicts
from buildsys.cli.project import Project
from buildsys.errors import BuildError, aligned
from buildsys.graph import Folder, Output, Rows, Source, Target, Text
from buildsys.plan import Plan, TargetPlan

if TYPE_CHECKING:
    from buildsys.execute import Outcome


def status(plan: Plan) -> list[str]:
    return aligned([(one.state, name, reason(one)) for name, one in plan.targets.items()], indent="")


def reason(one: TargetPlan) -> str:
    """Why a target is not fresh, in one line."""
    first, *more = one.reasons or (one.output or "",)
    return f"{first} (and {len(more)} more)" if more else first


def plan_json(plan: Plan) -> dict[str, Any]:
    targets = {
        name: {"state": one.state, "key": one.key, "digest": one.digest, "why": [*one.reasons, *([one.output] if one.output else [])]}
        for name, one in plan.targets.items()
    }
    states = [one.state for one in plan.targets.values()]
    return {"exit": 0, "counts": {state: states.count(state) for state in dict.fromkeys(states)}, "targets": targets}


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    targets: dict[str, Any] = {}
    for name, result in outcome.targets.items():
        one: dict[str, Any] = {"state": result.state, "key": result.key, "digest": result.digest, "seconds": result.seconds}
        one |= {"path": f"cache/out/{name}", "why": list(result.why), "facts": dict(result.facts)}
        if result.error is not None:
            one |= {"error": str(result.error), "log": result.log}
        targets[name] = one
    counts = {state: outcome.count(state) for state in ("built", "fresh", "failed", "skipped")}
    return {"exit": outcome.exit_code, "counts": counts, "targets": targets}


def failures(outcome: Outcome) -> list[str]:
    """Every error of a build, each with its target and its log."""
    lines = []
    for name, result in outcome.targets.items():
        if result.error is not None:
            error = result.error
            facts = [*error.facts, *([("log", result.log)] if result.log else [])]
            headline = error.headline if error.headline.startswith(name) else f"{name}: {error.headline}"
            lines += BuildError(headline, facts, error.hint).lines()
    return lines


def summary(outcome: Outcome, plan: Plan, seconds: float) -> str:
    """The last line of a build: what became of how many targets, and where the asked one is."""
    counts = [f"{outcome.count(state)} {state}" for state in ("built", "fresh", "failed", "skipped") if outcome.count(state)]
    line = f"{', '.join(counts)} in {seconds:.1f} s"
    if outcome.exit_code == 0 and len(plan.selected) == 1:
        line += f" → cache/out/{plan.selected[0]}"
    return line


def why(project: Project, plan: Plan, target: str) -> list[str]:
    """One block a step of the target: its state, and what changed since it was last made."""
    lines = []
    for name in project.graph.targets[target].steps:
        one = plan.steps[name]
        lines.append(f"{name} is {one.state}")
        lines += [f"  {text}" for text in one.reasons]
    if plan.targets[target].output:
        lines += [f"cache/out/{target} will be written again", f"  {plan.targets[target].output}"]
    return lines


def artifact_json(project: Project, plan: Plan, target: str) -> dict[str, Any]:
    """digest, files, facts and lineage of a target's artifact."""
    declared = project.graph.targets[target]
    step, one = project.graph.steps[declared.step], plan.steps[declared.step]
    if one.artifact is None:
        raise BuildError(f"{target} has no artifact yet", [("state", one.state)], f"build {target}")
    files = {**one.artifact.files, **one.artifact.references}
    return {
        "target": target,
        "kind": declared.kind,
        "state": plan.targets[target].state,
        "node": declared.node,
        "rule": step.rule,
        "key": one.resolved.key if one.resolved else None,
        "digest": one.artifact.digest,
        "path": str(project.cache.outputs.path(target)),
        "files": {name: {"digest": digest, "bytes": size} for name, (digest, size) in sorted(files.items())},
        "parameters": dict(one.resolved.action.parameters) if one.resolved else {},
        "lineage": {
            role: [_source(item) for item in given] if isinstance(given, tuple) else _source(given) for role, given in step.inputs.items()
        },
        "values": _values(plan, declared),
        "facts": dict(one.artifact.facts),
    }


def _values(plan: Plan, declared: Target) -> dict[str, Any]:
    """What a target's steps found out: the verdict of a verification, the checks and the tuning of a merge."""
    artifacts = [plan.steps[step].artifact for step in declared.steps if step in plan.steps]
    return {name: value for one in artifacts if one is not None for name, value in one.values.items()}


def artifact(found: Mapping[str, Any]) -> list[str]:
    head = [(name, str(found[name])) for name in ("target", "kind", "state", "node", "rule", "key", "digest", "path") if found[name]]
    lines = aligned(head, indent="")
    lines += ["", "files", *aligned([(name, _bytes(one["bytes"]), one["digest"][:16]) for name, one in found["files"].items()])]
    for title in ("parameters", "lineage", "facts"):
        rows = [(name, _short(value)) for name, value in found[title].items()]
        lines += ["", title, *aligned(rows)] if rows else []
    for verdict in found["values"].values():
        lines += ["", *verdicts.text(verdict)] if "passed" in verdict else []
    return lines


def _source(source: Source) -> str:
    if isinstance(source, Output):
        return source.step
    if isinstance(source, Rows):
        return f"{source.path}{'' if source.part == 'all' else f' ({source.part})'}"
    assert isinstance(source, (Folder, Text))
    return str(source.path)


def _bytes(size: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size = size / 1024  # type: ignore[assignment]
    return f"{size:.1f} GiB"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(one)}" for name, one in value.items())
    if isinstance(value, list):
        shown = ", ".join(_short(one) for one in value[:4])
        return f"{shown}, … {_short(value[-1])} ({len(value)})" if len(value) > 6 else ", ".join(_short(one) for one in value)
    return str(Path(value)) if isinstance(value, Path) else str(value)
