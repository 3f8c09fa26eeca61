"""`build bisect`: a merge's recipe and a metric become one more step of the graph; what it found, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from buildsys.errors import UsageError, aligned, nearest
from buildsys.evaluation.names import FALLING
from buildsys.graph import Graph, Output, Step, Target


def asked(graph: Graph, target: str, metric: str) -> tuple[Graph, str]:
    """(the graph with a target that finds what costs `target` the metric, the name of that target).

    metric  a verified behaviour, or a control set of one of the merge's vectors
    """
    merge = graph.steps[target]
    if merge.rule != "merge":
        merges = [one.name for one in graph.targets.values() if one.kind == "merged"]
        raise UsageError(f"{target} is no merge", hint=f"merges are {', '.join(merges) or 'none'}")
    if len(merge.labels["vectors"]) < 2:
        raise UsageError(f"{target} has one vector", hint="there is nothing to leave out; build show verified-… has its own figures")
    if merge.parameters["tokenizer"] == "union":
        raise UsageError(f'{target} has tokenizer = "union"', hint="bisect makes merges in memory, which needs the base's shapes")
    known = _metrics(graph, merge)
    if metric not in known:
        close = nearest(metric, known)
        hint = f"did you mean '{close}'?" if close else f"metrics of {target} are {', '.join(known) or 'none'}"
        raise UsageError(f"there is no metric '{metric}'", hint=hint)
    evaluate, measure, judge = known[metric]
    parameters: dict[str, Any] = {name: merge.parameters[name] for name in _RECIPE}
    parameters |= {"asked": {name: value for name, value in evaluate.parameters.items() if name not in ("coefficients", "threads")}}
    parameters |= {"measure": {name: measure[name] for name in ("metric", "contains", "regex")}, "threads": evaluate.parameters["threads"]}
    parameters |= {"direction": judge.parameters.get("direction", "raise") if measure is judge.parameters else "raise"}
    parameters |= {"confidence": judge.parameters["confidence"], "seed": judge.parameters["seed"]}
    inputs = {role: merge.inputs[role] for role in ("base", "vectors")}
    inputs |= {role: evaluate.inputs[role] for role in ("rows", "files") if role in evaluate.inputs}
    for known_step in (graph.steps.get(f"{target}:{role}-{metric}") for role in ("merged", "control")):
        if known_step is not None and _same_question(known_step, evaluate):
            inputs["merged"] = Output(known_step.name)
    name = f"bisect-{target.removeprefix('merged-')}-{metric}"
    step = Step(
        name, name, "bisect", parameters, inputs, labels={"vectors": merge.labels["vectors"], "coefficients": merge.labels["vectors"]}
    )
    targets = {**graph.targets, name: Target(name, "bisect", name, (name,))}
    return replace(graph, steps={**graph.steps, name: step}, targets=targets), name


_RECIPE = ("method", "options", "post", "svc_alpha", "tokenizer", "coefficients")


def _same_question(one: Step, other: Step) -> bool:
    """True where two evaluations ask the same of whatever model they are about."""
    asked = [{name: value for name, value in step.parameters.items() if name != "coefficients"} for step in (one, other)]
    return asked[0] == asked[1] and all(one.inputs.get(role) == other.inputs.get(role) for role in ("rows", "files"))


def _metrics(graph: Graph, merge: Step) -> dict[str, tuple[Step, Mapping[str, Any], Step]]:
    """metric -> (the step that evaluates it, what is made of it, the step that judges it), the merge's own vectors first."""
    found: dict[str, tuple[Step, Mapping[str, Any], Step]] = {}
    judges = {step.name.removeprefix("verified-"): step for step in graph.steps.values() if step.rule == "judge"}
    own = [name for name in merge.labels["vectors"] if name in judges]
    for name in [*own, *(other for other in judges if other not in own)]:
        judge = judges[name]
        if graph.steps[f"verified-{name}:rows"].inputs["base"] == merge.inputs["base"] or name in own:
            found.setdefault(name, (graph.steps[f"verified-{name}:rows"], judge.parameters, judge))
    checks = graph.steps.get(f"{merge.name}:checks")
    if checks is not None:
        for control, measure in zip(checks.parameters["control_names"], checks.parameters["controls"], strict=True):
            found.setdefault(control, (graph.steps[f"{merge.name}:control-{control}"], measure, checks))
    for name in own:
        judge = judges[name]
        for control, measure in zip(judge.parameters["control_names"], judge.parameters["controls"], strict=True):
            found.setdefault(control, (graph.steps[f"verified-{name}:control-{control}"], measure, judge))
    return found


def named(found: Mapping[str, Any], labels: Sequence[str], metric: str) -> dict[str, Any]:
    """The result with the vectors' names, and what is to blame: each culprit with its place beside the behaviour's own vector."""
    vectors = [{**row, "vector": labels[row["vector"]]} for row in found["vectors"]]
    pairs = [{**row, "vectors": [labels[at] for at in row["vectors"]]} for row in found["pairs"]]
    to_blame = [row["vector"] for row in vectors if row["significant"]]
    whole = {
        **found,
        "vectors": vectors,
        "pairs": pairs,
        "culprits": to_blame or [row["vectors"] for row in pairs if row["significant"]][:1],
    }
    if metric in labels:
        at = labels.index(metric)
        lying = [(labels.index(name), name) for name in to_blame if name != metric]
        whole["conflicts_with"] = {
            name: {"cosine": found["cosines"][at][other], "conflict": found["conflicts"][at][other]} for other, name in lying
        }
    return {name: value for name, value in whole.items() if name not in ("cosines", "conflicts")}


def text(found: Mapping[str, Any], target: str, metric: str) -> list[str]:
    form = "{:+.1%}" if found["metric"] in FALLING else "{:+.3f}"

    def figures(row: Mapping[str, Any]) -> str:
        low, high = row["cost_interval"]
        return f"{form.format(row['cost'])} [{form.format(low)}, {form.format(high)}]"

    lines = [f"{metric}: {found['metric']} {found['base']:.3f} in the base, {found['merged']:.3f} in {target} ({found['n']} rows)", ""]
    rows = [("without", "better by", "")]
    rows += [(row["vector"], figures(row), "costs it" if row["significant"] else "") for row in found["vectors"]]
    for row in found["pairs"][:5]:
        rows.append((" and ".join(row["vectors"]), figures(row), f"{form.format(row['extra'])} beyond the two by themselves"))
    lines += aligned(rows, indent="")
    lines.append("")
    for name, lying in found.get("conflicts_with", {}).items():
        apart = f"cosine {lying['cosine']:+.2f}, {lying['conflict']:.1%} of the entries that both move pull apart"
        lines.append(f"{name} conflicts with {metric}: {apart}")
    if not found["culprits"]:
        lines.append(f"no vector of {target} costs {metric} anything that could be told from chance")
    return lines
