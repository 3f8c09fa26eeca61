"""`checks` and `tune` of a merge: its behaviours and control sets measured on the merged model, its coefficients searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from buildsys.declared import provenance, verification
from buildsys.declared.reader import EvaluationSet, Inputs, Member, Reader, Where
from buildsys.graph import Output, Rows, Source, Step, Value
from buildsys.rules import tune
from buildsys.tables import Merged
from buildsys.tables.types import bounded
from buildsys.tables.verify import Checks

_MAX_LENGTH = 1024


@dataclass(frozen=True)
class ControlSet:
    """called  its name in the table that gives it; two tables may call different sets by one name"""

    called: str
    asked: EvaluationSet
    threads: int
    max_forgetting: float | None
    min_metric: float | None


def add(reader: Reader, name: str, where: Where, given: Checks) -> None:
    """The steps that check a merge, the last of which is the verdict; its target is done when they are.

    A vector without a verification is not checked. A merge on a merge keeps what its base has to keep, unless it names a vector itself.
    """
    target = f"merged-{name}"
    base, members = reader.composed[target][0], _members(reader, target)
    measured = [one for one in members if one.verified and one.label in reader.verified]
    twice = [one.label for at, one in enumerate(measured) if one.label in [other.label for other in measured[:at]]]
    if twice:
        reader.file.problem((*where, "checks"), f"vector '{twice[0]}' stands twice, and checks measure each alone")
        return
    seen = list(dict.fromkeys(rows for one in members for rows in provenance.seen_by(reader, one.label)))
    controls = _controls(reader, where, given, measured, seen)
    if not measured and not controls:
        reader.file.problem((*where, "checks"), "nothing of this merge is verified, so there is nothing to check", "name a control set")
        return
    steps: list[Step] = []

    def evaluated(called: str, asked: EvaluationSet, threads: int, subject: Inputs, coefficients: list[Any]) -> Output:
        parameters = {**asked.spec, "coefficients": coefficients, "threads": threads}
        steps.append(Step(f"{target}:{called}", target, "evaluate", parameters, {**subject, **asked.inputs()}))
        return Output(f"{target}:{called}")

    merged: Inputs = {"base": Output(target)}
    inputs: dict[str, list[Source]] = {"alone": [], "merged": [], "base_controls": [], "controls": []}
    for one in measured:
        own = reader.verified[one.label]
        alone: Inputs = {"base": Output(one.base), "vector": Output(one.step)}
        inputs["alone"].append(evaluated(f"alone-{one.label}", own.own, own.threads, alone, [one.coefficient]))
        inputs["merged"].append(evaluated(f"merged-{one.label}", own.own, own.threads, merged, []))
    for called, control in controls.items():
        inputs["base_controls"].append(evaluated(f"base-{called}", control.asked, control.threads, {"base": Output(base)}, []))
        inputs["controls"].append(evaluated(f"control-{called}", control.asked, control.threads, merged, []))
    names, sets = [one.label for one in measured], list(controls)
    parameters = {
        "behaviours": [reader.verified[label].own.measure for label in names],
        "names": names,
        "controls": [
            {**one.asked.measure, "max_forgetting": one.max_forgetting, "min_metric": one.min_metric} for one in controls.values()
        ],
        "control_names": sets,
        "max_loss_of_gain": given.max_loss_of_gain,
        "confidence": given.confidence,
        "seed": reader.file.build.seed,
    }
    labels = {"behaviours": names, "names": names, "controls": sets, "control_names": sets}
    judged: Inputs = {role: tuple(found) for role, found in inputs.items()}
    looked = _looked(reader, target, where, measured, controls, members, seen)
    steps.append(Step(f"{target}:checks", target, "check", parameters, judged, tuple(looked), labels, judges=True))
    reader.add(*steps)
    at = next(at for at, one in enumerate(reader.targets) if one.name == target)
    reader.targets[at] = replace(reader.targets[at], steps=(*reader.targets[at].steps, *looked, *(step.name for step in steps)))


def _members(reader: Reader, target: str) -> list[Member]:
    """The vectors of a merge, then those of the merges that it is made on, each label by the highest that has it."""
    members: list[Member] = []
    named: set[str] = set()
    walked: set[str] = set()
    while target in reader.composed and target not in walked:
        walked.add(target)
        target, own = reader.composed[target]
        members += [one for one in own if one.label not in named]
        named |= {one.label for one in own}
    return members


def _looked(
    reader: Reader, target: str, where: Where, measured: Sequence[Member], controls: Mapping[str, ControlSet],
    members: Sequence[Member], seen: provenance.Seen,
) -> list[str]:  # fmt: skip
    """Report rows that judge a merge though one of its vectors has seen them, or they tune it; the steps that do so in the build."""
    own = [(one, reader.verified[one.label].own.rows) for one in measured]
    judges = list(dict.fromkeys([*(rows for _, rows in own), *(one.asked.rows for one in controls.values())]))
    asked, tuned = [rows for rows in judges if rows is not None], reader.tuned.get(target, [])
    for one, rows in own:
        if isinstance(rows, Rows):  # its own training was compared by its verification
            others = [other.label for other in members if other.label != one.label]
            provenance.apart(reader, (*where, "checks"), rows, [row for name in others for row in provenance.seen_by(reader, name)])
    for rows in asked:
        if isinstance(rows, Rows):
            provenance.apart(reader, (*where, "tune"), rows, tuned, provenance.TUNED)
    return [
        *provenance.apart_when_built(reader, f"{target}:apart", target, asked, seen),
        *provenance.apart_when_built(reader, f"{target}:unseen", target, asked, tuned, provenance.TUNED),
    ]


def _controls(reader: Reader, where: Where, given: Checks, members: Sequence[Member], seen: provenance.Seen) -> dict[str, ControlSet]:
    """Every control set of the checks and of the vectors, each once, by a name of its own."""
    found: dict[str, ControlSet] = {}
    for name, table in given.controls().items():
        asked = verification.control_set(reader, (*where, "checks", "control"), table, _MAX_LENGTH, reader.file.build.template_date, seen)
        if asked is not None:
            found[name] = ControlSet(name, asked, 1, table.max_forgetting, table.min_metric)
    for one in members:
        verified = reader.verified[one.label]
        for name, asked in verified.controls.items():
            if any(asked == other.asked for other in found.values()):
                continue
            called = name
            while called in found:
                called = f"{called}-{one.label}"
            found[called] = ControlSet(name, asked, verified.threads, None, verified.least.get(name))
    gates = given.max_forgetting
    if isinstance(gates, dict):
        known = {one.called for one in found.values()} | set(found)
        for name in gates:
            if name not in known:
                hint = f"they are {', '.join(found) or 'none'}"
                reader.file.problem((*where, "checks", "max_forgetting"), f"'{name}' is no control set of this merge", hint)
    elif bounded(gates) is not None and not found:
        reader.file.problem((*where, "checks"), "max_forgetting needs a 'control' set to be measured on")

    def gate(called: str, one: ControlSet) -> float | None:
        every = gates.get(called, gates.get(one.called)) if isinstance(gates, dict) else gates
        return bounded(every if one.max_forgetting is None else one.max_forgetting)

    return {called: replace(one, max_forgetting=gate(called, one)) for called, one in found.items()}


def tuned(
    reader: Reader, target: str, where: Where, given: Merged, base: str, parts: Sequence[Member], recipe: dict[str, Any]
) -> list[str]:
    """The steps that search the coefficients of a merge, the last of which has them, by position; none where something is wrong."""
    assert given.tune is not None
    assert given.checks is not None
    at = (*where, "tune")
    sources: list[Rows | Output] = []
    behaviours = []
    for name in given.tune.rows:
        if name not in [part.label for part in parts]:
            reader.file.problem((*at, "rows"), f"'{name}' is no vector of this merge")
    for part in parts:
        if not isinstance(part.coefficient, float | Value):
            reader.file.problem((*where, "vectors", part.label), "tune searches numbers: start from one, or from 'auto'")
            return []
        own = given.tune.rows.get(part.label)
        known = provenance.trained_on(reader, part.label) if part.step == f"vector-{part.label}" else []
        rows: Rows | Output | None = known[0] if known else None
        if own is not None:
            rows = reader.rows((*at, "rows"), own, "all")
        if rows is None:
            hint = f'tune = {{ rows = {{ {part.label} = "rows.jsonl" }} }}'
            reader.file.problem(at, f"vector '{part.label}' has no training rows to tune it on", hint)
            return []
        sources.append(rows)
        behaviours.append({"metric": "preference" if reader.shape(rows) == "preference" else "loss"})
    gates = given.checks.max_forgetting
    limits = [*(gates.values() if isinstance(gates, dict) else [gates]), *(one.max_forgetting for one in given.checks.controls().values())]
    limit = bounded(min((one for one in limits if one is not None), default=None))
    parameters: dict[str, Any] = given.tune.model_dump(include=set(tune.Settings.model_fields))
    specs = [reader.verified[part.label].own.spec for part in parts if part.label in reader.verified]
    lengths = [spec["max_length"] for spec in specs if "max_length" in spec] or [_MAX_LENGTH]
    parameters |= recipe | {"start": [part.coefficient for part in parts], "behaviours": behaviours, "max_forgetting": limit}
    parameters |= {"max_length": max(lengths), "template_date": reader.file.build.template_date}
    inputs: Inputs = {"base": Output(base), "vectors": tuple(Output(part.step) for part in parts), "rows": tuple(sources)}
    files = [reader.rows((*at, "control"), path, "all") for path in given.tune.files()]
    reader.tuned[target] = [*sources, *(one for one in files if one is not None)]
    steps: list[str] = []
    if files:
        inputs["control"] = tuple(one for one in files if one is not None)
    elif limit is not None:
        samples = f"{target}:samples"
        drawn = {"number": given.tune.samples, "length": max(lengths), "seed": reader.file.build.seed + 1, "threads": 1}
        reader.add(Step(samples, target, "samples", drawn, {"base": Output(base)}))
        inputs["samples"] = Output(samples)
        steps.append(samples)
    names = [part.label for part in parts]
    step = f"{target}:tune"
    after = tuple(f"verified-{part.label}" for part in parts if part.verified)
    reader.add(
        Step(step, target, "tune", parameters, inputs, after, {"vectors": names, "start": names, "behaviours": names, "rows": names})
    )
    return [*steps, step]
