"""`checks` and `tune` of a merge: its behaviours and control sets measured on the merged model, its coefficients searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from buildsys import outside
from buildsys.declared import verification
from buildsys.declared.reader import EvaluationSet, Inputs, Reader, Where
from buildsys.examples.rows import Part
from buildsys.graph import Output, Rows, Source, Step, Value
from buildsys.rules import tune
from buildsys.tables import Behavior, Merged, Vector
from buildsys.tables.verify import Checks

_MAX_LENGTH = 1024


@dataclass(frozen=True)
class Member:
    """A vector of a merge: what explanations call it, the step that makes it, its coefficient, and whether a verification measures it."""

    label: str
    step: str
    verified: bool
    coefficient: Any


def add(reader: Reader, target: str, where: Where, given: Checks, base: str, parts: Sequence[Member]) -> list[str]:
    """The steps that check a merge, the last of which is the verdict. A vector without a verification is not checked."""
    measured = [part for part in parts if part.verified and part.label in reader.verified]
    controls = _controls(reader, where, given, measured)
    if not measured and not controls:
        reader.file.problem((*where, "checks"), "nothing of this merge is verified, so there is nothing to check", "name a control set")
        return []
    steps: list[Step] = []

    def evaluated(name: str, asked: EvaluationSet, threads: int, subject: Inputs, coefficients: list[Any]) -> str:
        parameters = {**asked.spec, "coefficients": coefficients, "threads": threads}
        steps.append(Step(f"{target}:{name}", target, "evaluate", parameters, {**subject, **asked.inputs()}))
        return f"{target}:{name}"

    merged: Inputs = {"base": Output(target)}
    inputs: dict[str, list[Source]] = {"alone": [], "merged": [], "base_controls": [], "controls": []}
    for part in measured:
        own = reader.verified[part.label]
        alone: Inputs = {"base": Output(base), "vector": Output(part.step)}
        inputs["alone"].append(Output(evaluated(f"alone-{part.label}", own.own, own.threads, alone, [part.coefficient])))
        inputs["merged"].append(Output(evaluated(f"merged-{part.label}", own.own, own.threads, merged, [])))
    for name, (asked, threads, _) in controls.items():
        inputs["base_controls"].append(Output(evaluated(f"base-{name}", asked, threads, {"base": Output(base)}, [])))
        inputs["controls"].append(Output(evaluated(f"control-{name}", asked, threads, merged, [])))
    names, sets = [part.label for part in measured], list(controls)
    parameters = {
        "behaviours": [reader.verified[name].own.measure for name in names],
        "names": names,
        "controls": [{**asked.measure, "max_forgetting": gate} for asked, _, gate in controls.values()],
        "control_names": sets,
        "max_loss_of_gain": given.max_loss_of_gain,
        "confidence": given.confidence,
        "seed": reader.file.build.seed,
    }
    labels = {"behaviours": names, "names": names, "controls": sets, "control_names": sets}
    judged: Inputs = {role: tuple(found) for role, found in inputs.items()}
    steps.append(Step(f"{target}:checks", target, "check", parameters, judged, labels=labels, judges=True))
    reader.add(*steps)
    return [step.name for step in steps]


def _controls(reader: Reader, where: Where, given: Checks, parts: Sequence[Member]) -> dict[str, tuple[EvaluationSet, int, float | None]]:
    """Every control set of the checks and of the vectors, each once: (set, threads, gate) by name."""
    found: dict[str, tuple[EvaluationSet, int, float | None]] = {}
    at = (*where, "checks", "control")
    for name, table in given.controls().items():
        asked = verification.control_set(reader, at, table, _MAX_LENGTH)
        if asked is not None:
            found[name] = asked, 1, table.max_forgetting
    for part in parts:
        verified = reader.verified[part.label]
        for name, asked in verified.controls.items():
            if any(asked == other for other, _, _ in found.values()):
                continue
            found[name if name not in found else f"{name}-{part.label}"] = asked, verified.threads, None
    gates = given.max_forgetting
    if isinstance(gates, dict):
        unknown = [name for name in gates if name not in found]
        for name in unknown:
            hint = f"they are {', '.join(found) or 'none'}"
            reader.file.problem((*where, "checks", "max_forgetting"), f"'{name}' is no control set of this merge", hint)
    elif gates is not None and not found:
        reader.file.problem((*where, "checks"), "max_forgetting needs a 'control' set to be measured on")

    def gate(name: str) -> float | None:
        return gates.get(name) if isinstance(gates, dict) else gates

    return {name: (asked, threads, gate(name) if own is None else own) for name, (asked, threads, own) in found.items()}


def tuned(
    reader: Reader, target: str, where: Where, given: Merged, base: str, parts: Sequence[Member], recipe: dict[str, Any]
) -> list[str]:
    """The steps that search the coefficients of a merge, the last of which has them, by position; none where something is wrong."""
    assert given.tune is not None
    assert given.checks is not None
    at = (*where, "tune")
    sources, behaviours = [], []
    for name in given.tune.rows:
        if name not in [part.label for part in parts]:
            reader.file.problem((*at, "rows"), f"'{name}' is no vector of this merge")
    for part in parts:
        if not isinstance(part.coefficient, float | Value):
            reader.file.problem((*where, "vectors", part.label), "tune searches numbers: start from one, or from 'auto'")
            return []
        own = given.tune.rows.get(part.label)
        rows = reader.rows((*at, "rows"), own, "all") if own is not None else _examples(reader, part.label)
        if rows is None:
            hint = f'tune = {{ rows = {{ {part.label} = "rows.jsonl" }} }}'
            reader.file.problem(at, f"vector '{part.label}' has no training rows to tune it on", hint)
            return []
        for verified in reader.verified.values() if own is not None else ():  # whosever they are: none of them may have a say
            if isinstance(verified.own.rows, Rows) and verified.own.rows.part == "all":
                reader.apart((*at, "rows"), verified.own.rows, rows)
        shape = outside.parsed_rows(rows, reader.observer)["shape"]
        sources.append(rows)
        behaviours.append({"metric": "preference" if shape == "preference" else "loss"})
    gates = given.checks.max_forgetting
    limit = min(gates.values(), default=None) if isinstance(gates, dict) else gates
    parameters: dict[str, Any] = given.tune.model_dump(include=set(tune.Settings.model_fields))
    specs = [reader.verified[part.label].own.spec for part in parts if part.label in reader.verified]
    lengths = [spec["max_length"] for spec in specs if "max_length" in spec] or [_MAX_LENGTH]
    parameters |= recipe | {"start": [part.coefficient for part in parts], "behaviours": behaviours, "max_forgetting": limit}
    parameters["max_length"] = max(lengths)
    inputs: Inputs = {"base": Output(base), "vectors": tuple(Output(part.step) for part in parts), "rows": tuple(sources)}
    files = [reader.rows((*at, "control"), path, "all") for path in given.tune.files()]
    steps = []
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


def _examples(reader: Reader, name: str, seen: frozenset[str] = frozenset()) -> Rows | None:
    """What a vector was trained on: its own examples; of a sum or an analogy those of its first part that has some."""
    table = reader.file.behavior.get(name) or reader.file.vector.get(name)
    if isinstance(table, Behavior):
        part: Part = "train" if table.verify.rows is None and table.verify.lm_eval is None else "all"
        if table.examples is None:
            return reader.node_rows(table.node or "", part)
        return Rows(reader.place(table.examples), part) if isinstance(table.examples, str) else None
    if not isinstance(table, Vector) or name in seen:
        return None
    if table.icl is not None:
        return Rows(reader.place(table.icl.examples))
    parts = list(table.sum or {}) or ([table.analogy.c, table.analogy.b] if table.analogy is not None else [])
    return next((rows for part in parts if (rows := _examples(reader, part, seen | {name})) is not None), None)
