"""`[behavior.*]`, and the `verify` table of every vector: trained here, held-out rows evaluated, judged."""

from __future__ import annotations

from buildsys import outside
from buildsys.declared.reader import Inputs, Reader, Where
from buildsys.examples.rows import Part
from buildsys.graph import Output, Step, Target
from buildsys.tables import Behavior, Keep, Verify


def add(reader: Reader, name: str, given: Behavior) -> None:
    where = ("behavior", name)
    base = reader.base(where, given.base)
    reader.node(where, given.node)
    held_out = given.verify.rows is None
    examples = reader.rows((*where, "examples"), given.examples, "train" if held_out else "all")
    if examples is None or base is None:
        return
    vector, train = f"vector-{name}", given.train
    parameters = train.model_dump(exclude={"keep", "save_steps", "seed", "store", "store_density"})
    parameters["seed"] = reader.file.build.seed if train.seed is None else train.seed
    inputs: Inputs = {"base": Output(base), "examples": examples}
    parameters["keep_weight"] = 1.0
    if train.keep is not None:
        parameters["keep_weight"] = train.keep.weight
        _keep(reader, where, train.keep, inputs)
    shape = outside.parsed_rows(examples, reader.observer)["shape"]
    if train.objective == "preference" and shape != "preference":
        text = f"objective 'preference' needs rows with 'rejected'; {given.examples} has {shape} rows"
        reader.file.problem((*where, "train"), text)
    exact = exactly(vector, train.store)
    reader.add(Step(exact, vector, "train", parameters, inputs, settings={"save_steps": train.save_steps}))
    steps = packed(reader, vector, train.store, train.store_density)
    reader.targets.append(Target(vector, "vector", vector, (exact, *steps), given.node))
    rows_of = given.verify.rows or given.examples
    verified(reader, name, where, given.verify, base, rows_of, "held-out" if held_out else "all", given.node)


def exactly(vector: str, store: str) -> str:
    """The step that makes a vector, before it may be packed."""
    return vector if store == "exact" else f"{vector}:exact"


def packed(reader: Reader, vector: str, store: str, density: float | None) -> list[str]:
    """The step that makes a vector small, where its table asks for that."""
    if store == "exact":
        return []
    inputs: Inputs = {"vector": Output(exactly(vector, store))}
    reader.add(Step(vector, vector, "pack", {"store": store, "density": density}, inputs))
    return [vector]


def _keep(reader: Reader, where: Where, keep: Keep, inputs: Inputs) -> None:
    found = reader.rows((*where, "train", "keep"), keep.rows, "all")
    if found is not None:
        inputs["keep"] = found


def verified(reader: Reader, name: str, where: Where, verify: Verify, base: str, path: str, part: Part, node: str | None) -> None:
    """Evaluate the vector on its rows and on each control set, then judge."""
    target, vector = f"verified-{name}", f"vector-{name}"
    held_out = reader.rows((*where, "verify", "rows"), path, part)
    coefficients = sorted(set(verify.coefficients))
    measured = {"coefficients": coefficients, "max_length": verify.max_length, "threads": verify.threads}
    steps = []
    controlled = [(f"control-{n}", reader.rows((*where, "verify", "control"), p, "all")) for n, p in verify.controls().items()]
    sets = [("rows", held_out), *controlled]
    for label, source in sets:
        if source is not None:
            inputs: Inputs = {"base": Output(base), "vector": Output(vector), "rows": source}
            steps.append(Step(f"{target}:{label}", target, "evaluate", measured, inputs))
    if held_out is None or len(steps) != len(sets):
        return
    shape = outside.parsed_rows(held_out, reader.observer)["shape"]
    metric = verify.metric or ("preference" if shape == "preference" else "loss")
    if metric == "preference" and shape != "preference":
        text = f"metric 'preference' needs rows with 'rejected'; {path} has {shape} rows"
        reader.file.problem((*where, "verify", "metric"), text)
    controls = list(verify.controls())
    parameters = {
        "metric": metric,
        "min_gain": verify.min_gain,
        "max_forgetting": [verify.gate(control) for control in controls],
        "controls": controls,
        "confidence": verify.confidence,
        "seed": reader.file.build.seed,
    }
    judged: Inputs = {"rows": Output(steps[0].name)}
    judged["controls"] = tuple(Output(step.name) for step in steps[1:])
    labels = {"controls": controls, "max_forgetting": controls}
    judge = Step(target, target, "judge", parameters, judged, labels=labels, judges=True)
    reader.add(*steps, judge)
    reader.targets.append(Target(target, "verified", target, (*(step.name for step in steps), target), node))
