"""What all tables of a Buildfile share on their way into the graph: the steps so far, and what a table's names and paths mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from buildsys import memory, outside
from buildsys.buildfile import Buildfile
from buildsys.declared.lineage import Lineage
from buildsys.errors import UsageError, nearest
from buildsys.examples.rows import Part
from buildsys.graph import Folder, Output, Rows, Source, Step, Target, Text
from buildsys.store.observe import Observer

Where = tuple[str, ...]
Inputs = dict[str, Source | tuple[Source, ...]]


@dataclass(frozen=True)
class EvaluationSet:
    """What a step needs to evaluate one set.

    spec     as `rules.evaluate.Spec` takes it; measure: as `rules.judge.Measure`
    rows     None for a task of lm-eval; files: those that come with it
    """

    spec: dict[str, Any]
    measure: dict[str, Any]
    rows: Rows | Output | None
    files: tuple[Text, ...] = ()

    def inputs(self) -> Inputs:
        found: Inputs = {} if self.rows is None else {"rows": self.rows}
        return found | ({"files": self.files} if self.files else {})


@dataclass(frozen=True)
class Verified:
    """How a vector is verified, for merges that measure it again: its own set, and each control set by its name."""

    own: EvaluationSet
    controls: dict[str, EvaluationSet]
    least: dict[str, float | None]  # min_metric of each control set
    threads: int


@dataclass(frozen=True)
class Member:
    """A vector of a merge: its name, the step that makes it, whether a verification measures it, its coefficient and the merge's base."""

    label: str
    step: str
    verified: bool
    coefficient: Any
    base: str


class Reader:
    """steps   by name; `targets` in the file's order
    later   problems in files that the Buildfile names: said once it has none itself
    verified  by the name of the vector; composed: (base, vectors) of each merge, by its target; tuned: the rows that tune it
    asked   digests of what the rows of a source ask and answer, as `provenance` compares them
    """

    def __init__(self, file: Buildfile, observer: Observer) -> None:
        self.file, self.observer, self.root = file, observer, file.path.parent
        self.steps: dict[str, Step] = {}
        self.targets: list[Target] = []
        self.nodes: dict[str, memory.Node] = {}
        self.later: list[UsageError] = []
        self.verified: dict[str, Verified] = {}
        self.composed: dict[str, tuple[str, list[Member]]] = {}
        self.tuned: dict[str, list[Rows | Output]] = {}
        self.asked: dict[Rows, frozenset[str]] = {}
        self.lineage = Lineage(file)
        self._bases: dict[str, str] = {}  # of steps that make vectors
        self.bases_of_tables: dict[str, str] = {}  # of vectors by name, where their tables say so

    # every name of a kind, in the file's order

    @cached_property
    def merged_names(self) -> dict[str, None]:
        return dict.fromkeys(f"merged-{name}" for name in self.file.known["merged"])

    @cached_property
    def model_names(self) -> dict[str, None]:
        return dict.fromkeys([*(f"base-{name}" for name in self.file.known["base"]), *self.merged_names])

    @cached_property
    def vector_names(self) -> dict[str, None]:
        return dict.fromkeys([*self.file.known["behavior"], *self.file.known["vector"]])

    @cached_property
    def node_names(self) -> dict[str, None]:
        return dict.fromkeys(name for node in self.nodes.values() for name in node.names())

    def read_memory(self) -> None:
        try:
            self.nodes = memory.read(self.root, self.file.graph.nodes, self.observer)
        except UsageError as error:
            self.later.append(error)

    def add(self, *steps: Step) -> None:
        self.steps.update((step.name, step) for step in steps)

    # what tables name

    def base(self, where: Where, name: str | None) -> str | None:
        """The step that makes a base: that of a `[base.*]` table, or of a merged target by its full name."""
        known = self.file.known["base"]
        merged = self.merged_names
        if name is None:
            if len(known) == 1:
                name = known[0]
            else:
                self.file.problem(where, "'base' is missing", f"bases are {', '.join(known) or 'none: declare one as [base.NAME]'}")
                return None
        if name in merged:
            return name if name.removeprefix("merged-") in self.file.merged else None
        if name not in known:
            close = nearest(name, [*known, *merged])
            hint = f"the nearest base is '{close}'" if close else f"bases are {', '.join([*known, *merged]) or 'none'}"
            self.file.problem((*where, "base"), f"there is no base '{name}'", hint)
            return None
        return f"base-{name}" if name in self.file.base else None

    def descends(self, base: str, other: str) -> bool:
        """True where a base is another one, or was made on it: a vector of the other can be added to it."""
        root = self.lineage.root(base)
        return root is None or self.lineage.descends(base, other) or self.same_base(root, other)

    def same_base(self, one: str, other: str) -> bool:
        """True for two names of one base: the same table, or two tables that name the same folder or revision."""
        if one == other:
            return True
        left, right = self.steps.get(one), self.steps.get(other)
        return left is not None and right is not None and left.rule == right.rule == "model" and _is(left) == _is(right)

    def node(self, where: Where, node: str | None) -> None:
        known = self.node_names
        if node is None or node in known or self.later:
            return
        pattern = self.file.graph.nodes
        if pattern is None:
            self.file.problem((*where, "node"), f"node '{node}' has no memory graph to be in", 'set [graph] nodes = "memory/*.md"')
            return
        close = nearest(node, known)
        folder = str(Path(pattern).parent)
        self.file.problem((*where, "node"), f"node '{node}' is not in {folder}/", f"the nearest node is '{close}'" if close else "")

    def rows(self, where: Where, path: str, part: Part) -> Rows | None:
        source = Rows(self.place(path), part)
        if self.observer.size(source.path) is None:
            self.file.problem(where, f"'{path}' is not there")
            return None
        return self._known(where, path, source)

    def rows_of_node(self, where: Where, name: str, part: Part) -> Rows | None:
        """The examples that a memory node holds itself, for a behaviour that names no file."""
        held = self.node_rows(name, part)
        if held is None:
            if name in self.node_names:
                fence = "```jsonl" + (f" {name.partition('#')[2]}" if "#" in name else "")
                hint = f"give it 'examples', or put rows into the node, between lines '{fence}' and '```'"
                self.file.problem(where, f"'examples' is missing, and node '{name}' holds none", hint)
            return None
        return self._known((*where, "node"), f"{os.path.relpath(held.path, self.root)}", held)

    def node_rows(self, name: str, part: Part) -> Rows | None:
        """Where a node's own examples are; None where it has none."""
        id_, _, aspect = name.partition("#")
        node = self.nodes.get(id_)
        return Rows(node.path, part, aspect) if node is not None and aspect in node.own_examples else None

    def check(self, source: Folder | Text) -> None:
        """Note at once what is wrong with the user's own files of a step, which may have to wait for others before it is planned."""
        try:
            outside.check(source, self.observer)
        except UsageError as error:
            self.later.append(error)

    def _known(self, where: Where, path: str, source: Rows) -> Rows | None:
        """The source, if its rows can be read and there are some."""
        part = source.part
        try:
            number = int(outside.parsed_rows(source, self.observer)["number"])
        except UsageError as error:
            self.later.append(error)
            return None
        if number == 0:
            self.file.problem(where, f"'{path}' has no row left for the {part} part", "give more rows, or verify = { rows = … }")
            return None
        return source

    def shape(self, rows: Rows | Output) -> str:
        """Of a file's rows as they are; of fetched ones what they have to be: answers alone where nothing needs more."""
        if isinstance(rows, Rows):
            return outside.parsed_rows(rows, self.observer)["shape"]
        return str(self.steps[rows.step].parameters["shape"] or "completion")

    def place(self, path: str) -> Path:
        return self.root / (os.path.expanduser(path) if path.startswith("~") else path)

    def base_of(self, vector: str) -> str | None:
        """The step of the base that a vector's step was taken from."""
        step = self.steps.get(vector)
        walked: dict[str, None] = {}
        base = None
        while step is not None and step.name not in walked and base is None:
            walked[step.name] = None
            given = step.inputs.get("base")
            base = given.step if isinstance(given, Output) else self._bases.get(step.name)
            step = self._first_part(step.inputs)
        if base is not None:
            self._bases.update(dict.fromkeys(walked, base))
        return base

    def _first_part(self, inputs: Mapping[str, Source | tuple[Source, ...]]) -> Step | None:
        for role in ("vector", "vectors"):
            given = inputs.get(role)
            first = given[0] if isinstance(given, tuple) else given
            if isinstance(first, Output):
                return self.steps.get(first.step)
        return None


def _is(step: Step) -> object:
    return dict(step.parameters), dict(step.inputs)
