"""`[behavior.*]`: examples become a vector by training, and are held out where nothing else verifies it."""

from __future__ import annotations

from buildsys.declared import provenance, verification
from buildsys.declared.reader import Inputs, Reader, Where
from buildsys.examples.rows import Part
from buildsys.graph import Output, Rows, Step, Target
from buildsys.rules.train import Steering
from buildsys.tables import Behavior


def add(reader: Reader, name: str, given: Behavior) -> None:
    where = ("behavior", name)
    base = reader.base(where, given.base)
    reader.node(where, given.node)
    held_out = given.verify.rows is None and given.verify.lm_eval is None
    vector, train = f"vector-{name}", given.train
    steps: list[str] = []
    examples = _examples(reader, where, given, "train" if held_out else "all", vector, steps)
    if examples is None or base is None:
        return
    steering = set(Steering.model_fields)
    parameters = train.model_dump(exclude={"keep", "seed", "store", "store_density"} | steering)
    parameters["seed"] = reader.file.build.seed if train.seed is None else train.seed
    parameters["template_date"] = train.template_date or reader.file.build.template_date
    inputs: Inputs = {"base": Output(base), "examples": examples}
    parameters |= {"keep_weight": 1.0, "keep_batch_size": None, "keep_window": None}
    if train.keep is not None:
        kept = train.keep
        parameters |= {"keep_weight": kept.weight, "keep_batch_size": kept.batch_size, "keep_window": kept.window}
        steps += _keep(reader, where, vector, given, inputs)
    shape = reader.shape(examples)
    if train.objective != "sft" and shape != "preference":
        text = f"objective '{train.objective}' needs rows with 'rejected'; {given.examples or given.node} has {shape} rows"
        reader.file.problem((*where, "train"), text)
    exact = exactly(vector, train.store)
    if train.objective == "dpo":
        measured = {name: parameters[name] for name in ("max_length", "threads", "template_date")}
        reference = f"{vector}:reference"
        reader.add(Step(reference, vector, "reference", measured, {"base": inputs["base"], "rows": examples}))
        inputs["reference"] = Output(reference)
        steps.append(reference)
    settings = train.model_dump(include=steering, exclude_none=True)
    if train.report_to not in (None, "none"):
        settings["logs"] = str(reader.root / "cache" / "logs" / vector)
    reader.add(Step(exact, vector, "train", parameters, inputs, settings=settings))
    steps += [exact, *packed(reader, vector, train.store, train.store_density)]
    reader.targets.append(Target(vector, "vector", vector, tuple(steps), given.node))
    tested: Rows | Output | None = None
    if held_out:
        tested = _examples(reader, where, given, "held-out", f"verified-{name}", [])
    elif given.verify.rows is not None:
        tested = reader.rows((*where, "verify", "rows"), given.verify.rows, "all")
    if tested is not None or given.verify.lm_eval is not None:
        own = "" if tested is None else reader.shape(tested)
        verification.add(reader, name, where, given.verify, base, tested, own, given.node, provenance.seen_by(reader, name))


def _examples(reader: Reader, where: Where, given: Behavior, part: Part, target: str, steps: list[str]) -> Rows | Output | None:
    """One side of a behaviour's examples: a file of the user's, or a step that fetches them, which is added to `steps`."""
    if given.examples is None:
        return reader.rows_of_node(where, given.node or "", part)
    if isinstance(given.examples, str):
        return reader.rows((*where, "examples"), given.examples, part)
    step = f"{target}:examples"
    needed = None if given.train.objective == "sft" and given.verify.metric != "preference" else "preference"
    reader.add(Step(step, target, "dataset", {**given.examples.model_dump(), "part": part, "shape": needed}))
    steps.append(step)
    return Output(step)


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


def _keep(reader: Reader, where: Where, vector: str, given: Behavior, inputs: Inputs) -> list[str]:
    """Add what must stay to a training's inputs; returns the step that asks the base for samples, where there is one."""
    train = given.train
    assert train.keep is not None
    found = [reader.rows((*where, "train", "keep"), path, "all") for path in train.keep.files()]
    rows = [one for one in found if one is not None]
    if rows:
        inputs["keep"] = tuple(rows)
    if train.keep.samples is None:
        return []
    step = f"{vector}:samples"
    seed = reader.file.build.seed  # not the training's own: other seeds share the samples
    parameters = {"number": train.keep.samples, "length": train.keep.sample_length, "seed": seed, "threads": train.threads}
    reader.add(Step(step, vector, "samples", parameters, {"base": inputs["base"]}))
    inputs["samples"] = Output(step)
    return [step]
