"""Buildfile + memory graph -> the build graph: what each declared table becomes. Collects every problem before it complains."""

from __future__ import annotations

import fnmatch
import math
import os
from pathlib import Path

from buildsys import memory, outside
from buildsys.buildfile import Buildfile, shown
from buildsys.errors import UsageError, nearest
from buildsys.examples.rows import Part
from buildsys.graph import Folder, Graph, Output, Rows, Source, Step, Target, Text, Value, ordered
from buildsys.merging import methods, options
from buildsys.store.observe import Observer
from buildsys.tables import Base, Behavior, Keep, Merged, Vector, Verify
from buildsys.tensors import checkpoints


def graph(file: Buildfile, observer: Observer) -> Graph:
    """Raises UsageError with all problems of the file: names, kinds, missing files, cycles, rows that do not fit."""
    return _Reader(file, observer).graph()


class _Reader:
    def __init__(self, file: Buildfile, observer: Observer) -> None:
        self.file, self.observer, self.root = file, observer, file.path.parent
        self.steps: dict[str, Step] = {}
        self.targets: list[Target] = []
        self.nodes: dict[str, memory.Node] = {}
        self.later: list[UsageError] = []  # in files that the Buildfile names: said once it has no problem itself

    def graph(self) -> Graph:
        file = self.file
        try:
            self.nodes = memory.read(self.root, file.graph.nodes, self.observer)
        except UsageError as error:
            self.later.append(error)
        for name in set(file.known["behavior"]) & set(file.known["vector"]):
            file.problem(("vector", name), f"'{name}' is a behaviour too, and both would make vector-{name}", "rename one of the two")
        for name, base in file.base.items():
            self._base(name, base)
        for name, behavior in file.behavior.items():
            self._behavior(name, behavior)
        for name, vector in file.vector.items():
            if name not in file.known["behavior"]:
                self._vector(name, vector)
        for name, merged in file.merged.items():
            self._merged(name, merged)
        made = {target.name for target in self.targets}
        every = [f"{kind}-{name}" for kind, table in _KINDS for name in file.known[table]]
        for name in file.build.default:
            if name not in made and not fnmatch.filter(every, name):
                close = nearest(name, every)
                file.problem(("build", "default"), f"there is no target '{name}'", f"the nearest target is '{close}'" if close else "")
        file.check()
        if self.later:
            raise self.later[0]
        return ordered(self.root, self.steps.values(), self.targets, file.build.default)

    def _add(self, *steps: Step) -> None:
        self.steps.update((step.name, step) for step in steps)

    # one method for each kind of table; each adds the table's steps and targets, or problems

    def _base(self, name: str, base: Base) -> None:
        target = f"base-{name}"
        if base.pretrain is not None:
            given = base.pretrain
            parameters = given.model_dump(exclude={"corpus", "save_steps", "seed"})
            parameters["seed"] = self.file.build.seed if given.seed is None else given.seed
            corpus = self.observer.glob(self.root, given.corpus)
            if not corpus:
                self.file.problem(("base", name, "pretrain", "corpus"), f"no file matches '{given.corpus}'")
            inputs: dict[str, Source | tuple[Source, ...]] = {"corpus": tuple(Text(path) for path in corpus)}
            settings = {"save_steps": given.save_steps}
            recipe: tuple[tuple[str, str], ...] = (("pre-trained on", given.corpus),)
            self._add(Step(target, target, "pretrain", parameters, inputs, settings=settings))
        else:
            recipe = self._model(target, target, ("base", name), base)
        self.targets.append(Target(target, "base", target, (target,), recipe=recipe))

    def _model(self, step: str, target: str, where: tuple[str, ...], given: Base | Vector) -> tuple[tuple[str, str], ...]:
        """A step that names an existing model."""
        if given.hub is not None:
            self._add(Step(step, target, "model", {"hub": given.hub, "revision": given.revision}))
            return (("hub", f"{given.hub} at {given.revision}"),)
        folder = self._place(given.path or "")
        if not checkpoints.model_files(self.observer.names(folder)):
            self.file.problem(
                (*where, "path"), f"'{given.path}' is no model folder", "a model folder has config.json and model.safetensors"
            )
        parameters = {"hub": None, "revision": None}
        self._add(Step(step, target, "model", parameters, {"folder": Folder(folder)}))
        return (("folder", str(given.path)),)

    def _behavior(self, name: str, given: Behavior) -> None:
        where = ("behavior", name)
        base = self._base_of(where, given.base)
        self._node(where, given.node)
        held_out = given.verify.rows is None
        examples = self._rows((*where, "examples"), given.examples, "train" if held_out else "all")
        if examples is None or base is None:
            return
        vector, train = f"vector-{name}", given.train
        parameters = train.model_dump(exclude={"keep", "save_steps", "seed"})
        parameters["seed"] = self.file.build.seed if train.seed is None else train.seed
        inputs: dict[str, Source | tuple[Source, ...]] = {"base": Output(base), "examples": examples}
        parameters["keep_weight"] = 1.0
        if train.keep is not None:
            parameters["keep_weight"] = train.keep.weight
            self._keep(where, train.keep, inputs)
        shape = outside.parsed_rows(examples, self.observer)["shape"]
        if train.objective == "preference" and shape != "preference":
            self.file.problem((*where, "train"), f"objective 'preference' needs rows with 'rejected'; {given.examples} has {shape} rows")
        self._add(Step(vector, vector, "train", parameters, inputs, settings={"save_steps": train.save_steps}))
        self.targets.append(Target(vector, "vector", vector, (vector,), given.node))
        rows_of = given.verify.rows or given.examples
        self._verified(name, where, given.verify, base, vector, rows_of, "held-out" if held_out else "all", given.node)

    def _keep(self, where: tuple[str, ...], keep: Keep, inputs: dict[str, Source | tuple[Source, ...]]) -> None:
        found = self._rows((*where, "train", "keep"), keep.rows, "all")
        if found is not None:
            inputs["keep"] = found

    def _vector(self, name: str, given: Vector) -> None:
        where, target, model = ("vector", name), f"vector-{name}", f"vector-{name}:model"
        base = self._base_of(where, given.base)
        self._node(where, given.node)
        self._model(model, target, where, given)
        if base is None:
            return
        inputs = {"base": Output(base), "model": Output(model)}
        self._add(Step(target, target, "extract", {"dtype": given.dtype}, inputs))
        self.targets.append(Target(target, "vector", target, (model, target), given.node))
        if given.verify is None:
            return
        if given.verify.rows is None:
            self.file.problem((*where, "verify"), "'rows' is missing: no examples belong to this vector")
            return
        self._verified(name, where, given.verify, base, target, given.verify.rows, "all", given.node)

    def _verified(
        self, name: str, where: tuple[str, ...], verify: Verify, base: str, vector: str, path: str, part: Part, node: str | None
    ) -> None:
        target = f"verified-{name}"
        held_out = self._rows((*where, "verify", "rows"), path, part)
        coefficients = sorted(set(verify.coefficients))
        measured = {"coefficients": coefficients, "max_length": verify.max_length, "threads": verify.threads}
        steps = []
        controlled = [(f"control-{n}", self._rows((*where, "verify", "control"), p, "all")) for n, p in verify.controls().items()]
        sets = [("rows", held_out), *controlled]
        for label, source in sets:
            if source is not None:
                step = f"{target}:{label}"
                inputs: dict[str, Source | tuple[Source, ...]] = {"base": Output(base), "vector": Output(vector), "rows": source}
                steps.append(Step(step, target, "evaluate", measured, inputs))
        if held_out is None or len(steps) != len(sets):
            return
        shape = outside.parsed_rows(held_out, self.observer)["shape"]
        metric = verify.metric or ("preference" if shape == "preference" else "loss")
        if metric == "preference" and shape != "preference":
            self.file.problem((*where, "verify", "metric"), f"metric 'preference' needs rows with 'rejected'; {path} has {shape} rows")
        controls = list(verify.controls())
        parameters = {
            "metric": metric,
            "min_gain": verify.min_gain,
            "max_forgetting": [verify.gate(control) for control in controls],
            "controls": controls,
            "confidence": verify.confidence,
            "seed": self.file.build.seed,
        }
        judged: dict[str, Source | tuple[Source, ...]] = {"rows": Output(steps[0].name)}
        judged["controls"] = tuple(Output(step.name) for step in steps[1:])
        labels = {"controls": controls, "max_forgetting": controls}
        judge = Step(target, target, "judge", parameters, judged, labels=labels, judges=True)
        self._add(*steps, judge)
        self.targets.append(Target(target, "verified", target, (*(step.name for step in steps), target), node))

    def _merged(self, name: str, given: Merged) -> None:
        where, target = ("merged", name), f"merged-{name}"
        base = self._base_of(where, given.base)
        if given.method not in methods.METHODS:
            close = nearest(given.method, methods.METHODS)
            hint = f"methods are {', '.join(methods.METHODS)}"
            self.file.problem(
                (*where, "method"), f"there is no merge method '{given.method}'", f"{hint}; the nearest is '{close}'" if close else hint
            )
            return
        chosen, problems = options.completed(given.method, given.options)
        for option, text, hint in problems:
            self.file.problem((*where, option), text, hint)
        vectors, coefficients, after = [], [], []
        for vector, coefficient in given.vectors.items():
            verdict = self._taken(where, given, vector, base)
            if coefficient != "auto" and not _finite_number(coefficient):
                self.file.problem(
                    (*where, "vectors", vector), f"the coefficient of '{vector}' is {shown(coefficient)}, expected a number or 'auto'"
                )
                continue
            if verdict is None:
                continue
            if coefficient == "auto" and not verdict:
                self.file.problem((*where, "vectors", vector), f"'auto' needs a verified vector, and '{vector}' is not verified")
                continue
            if coefficient == 0.0 and len(given.vectors) == 1:
                self.file.problem((*where, "vectors", vector), "a merge of one vector with coefficient 0 is the base")
            vectors.append(Output(f"vector-{vector}"))
            coefficients.append(Value(verdict, "verdict.json", "coefficient") if coefficient == "auto" else float(coefficient))
            after += [verdict] if verdict else []
        if base is None or len(vectors) != len(given.vectors):
            return
        parameters = {"method": given.method, "coefficients": coefficients, "options": chosen}
        inputs: dict[str, Source | tuple[Source, ...]] = {"base": Output(base), "vectors": tuple(vectors)}
        labels = {"vectors": list(given.vectors), "coefficients": list(given.vectors)}
        self._add(Step(target, target, "merge", parameters, inputs, tuple(after), labels))
        recipe = [("base", base), ("method", given.method), *((option, str(value)) for option, value in chosen.items())]
        self.targets.append(Target(target, "merged", target, (target,), recipe=tuple(recipe)))

    # what tables name

    def _taken(self, where: tuple[str, ...], given: Merged, vector: str, base: str | None) -> str | None:
        """The step whose verdict the merge needs, "" where it takes the vector unverified, None where it cannot have it."""
        known = [*self.file.known["behavior"], *self.file.known["vector"]]
        at = (*where, "vectors", vector)
        if vector not in known:
            close = nearest(vector, known)
            hint = f"the nearest vector is '{close}'" if close else f"vectors are {', '.join(known) or 'none'}"
            self.file.problem(at, f"there is no vector '{vector}'", hint)
            return None
        steps = self.steps
        if f"vector-{vector}" not in steps:
            return None  # its own table has a problem, which is reported
        own_base = steps[f"vector-{vector}"].inputs["base"]
        if base is not None and own_base != Output(base):
            assert isinstance(own_base, Output)
            self.file.problem(at, f"vector '{vector}' was taken from {own_base.step}, and this merge is on {base}")
            return None
        if f"verified-{vector}" in steps:
            return f"verified-{vector}"
        unverified = given.unverified
        if unverified is True or (isinstance(unverified, list) and vector in unverified):
            return ""
        if vector in self.file.vector and self.file.vector[vector].verify is None:
            self.file.problem(
                at, f"vector '{vector}' is not verified", f'give [vector.{vector}] a verify table, or say unverified = ["{vector}"]'
            )
        return None

    def _base_of(self, where: tuple[str, ...], name: str | None) -> str | None:
        known = self.file.known["base"]
        if name is None:
            if len(known) == 1:
                name = known[0]
            else:
                self.file.problem(where, "'base' is missing", f"bases are {', '.join(known) or 'none: declare one as [base.NAME]'}")
                return None
        if name not in known:
            close = nearest(name, known)
            self.file.problem(
                (*where, "base"),
                f"there is no base '{name}'",
                f"the nearest base is '{close}'" if close else f"bases are {', '.join(known) or 'none'}",
            )
            return None
        return f"base-{name}" if name in self.file.base else None

    def _node(self, where: tuple[str, ...], node: str | None) -> None:
        known = [name for one in self.nodes.values() for name in one.names()]
        if node is None or node in known or self.later:
            return
        pattern = self.file.graph.nodes
        if pattern is None:
            self.file.problem((*where, "node"), f"node '{node}' has no memory graph to be in", 'set [graph] nodes = "memory/*.md"')
            return
        close = nearest(node, known)
        folder = str(Path(pattern).parent)
        self.file.problem((*where, "node"), f"node '{node}' is not in {folder}/", f"the nearest node is '{close}'" if close else "")

    def _rows(self, where: tuple[str, ...], path: str, part: Part) -> Rows | None:
        source = Rows(self._place(path), part)
        if self.observer.size(source.path) is None:
            self.file.problem(where, f"'{path}' is not there")
            return None
        try:
            number = int(outside.parsed_rows(source, self.observer)["number"])
        except UsageError as error:
            self.later.append(error)
            return None
        if number == 0:
            self.file.problem(where, f"'{path}' has no row left for the {part} part", "give more rows, or verify = { rows = … }")
            return None
        return source

    def _place(self, path: str) -> Path:
        return self.root / (os.path.expanduser(path) if path.startswith("~") else path)


def _finite_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_KINDS = (
    ("base", "base"),
    ("vector", "behavior"),
    ("verified", "behavior"),
    ("vector", "vector"),
    ("verified", "vector"),
    ("merged", "merged"),
)
