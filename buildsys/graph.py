"""Targets, their steps, and what each step reads. Checks names and cycles; hashes nothing and knows no store records."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from buildsys.errors import UsageError, nearest
from buildsys.examples.rows import Part
from buildsys.memory import Node

MODEL_CARD = "README.md"


@dataclass(frozen=True)
class Output:
    """The artifact of another step."""

    step: str


@dataclass(frozen=True)
class Rows:
    """Example rows of a file of the user's, all of them or one side of the fixed split.

    aspect  of a memory node whose own examples they are, "" for those of the node itself; None: the file is nothing but rows
    """

    path: Path
    part: Part = "all"
    aspect: str | None = None


@dataclass(frozen=True)
class Folder:
    """A folder of the user's: a model, or a PEFT adapter."""

    path: Path
    adapter: bool = False


@dataclass(frozen=True)
class Text:
    """One text file of the user's, and how large it may be."""

    path: Path
    bytes_max: int = 4_000_000_000


@dataclass(frozen=True)
class Value:
    """A parameter that another step's artifact decides: one field of a JSON file that its rule lets plans read.

    field  its name; an Output: the digest of that artifact is the name
    """

    step: str
    file: str
    field: str | Output


Source = Output | Rows | Folder | Text


@dataclass(frozen=True)
class Step:
    """One action to be, with names in place of digests.

    parameters  enter the key, after the values that they name are known
    inputs      role -> a source, or several in order
    after       steps whose verdict must hold, though nothing of them enters the key
    labels      list role or list parameter -> a name for each entry, for explanations only
    settings    steer the run; never in the key
    judges      True where the artifact is a verdict that may be no
    notes       what a user should know of the recipe, said when it is made
    """

    name: str
    target: str
    rule: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Source | tuple[Source, ...]] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    labels: Mapping[str, list[str]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    judges: bool = False
    notes: tuple[str, ...] = ()

    def sources(self, role: str | None = None) -> Iterable[Source]:
        """What the step reads, under one role or under all."""
        for name, given in self.inputs.items():
            if role in (None, name):
                yield from given if isinstance(given, tuple) else (given,)

    def needs(self) -> list[str]:
        """Every step that has to be done before."""
        return self._needs

    @cached_property
    def _needs(self) -> list[str]:
        found = [source.step for source in self.sources() if isinstance(source, Output)]
        values = [value for given in self.parameters.values() for value in (given if isinstance(given, list) else [given])]
        decided = [value for value in values if isinstance(value, Value)]
        found += [name for one in decided for name in (one.step, one.field.step if isinstance(one.field, Output) else one.step)]
        return list(dict.fromkeys([*found, *self.after]))


@dataclass(frozen=True)
class Target:
    """A named thing that can be built. `step` makes what its consumers take and `cache/out` shows.

    recipe  what a model card says of it: (heading, rows), for models only
    """

    name: str
    kind: str
    step: str
    steps: tuple[str, ...]
    node: str | None = None
    recipe: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Graph:
    root: Path
    steps: dict[str, Step]  # in an order in which they can be made
    targets: dict[str, Target]
    default: tuple[str, ...] = ()
    nodes: Mapping[str, Node] = field(default_factory=dict)  # the memory graph, and what in it does not fit the vectors
    misfits: tuple[str, ...] = ()
    template_date: str = ""  # what the clock of chat templates shows, where no table says otherwise

    def selected(self, patterns: Iterable[str]) -> list[str]:
        """The targets that names and globs mean, in the file's order; all defaults for none.

        Raises UsageError for one that means nothing.
        """
        patterns = list(patterns) or list(self.default)
        if not patterns:
            raise UsageError("no target was named", hint="name one, or set [build].default; 'build list' shows them")
        found: set[str] = set()
        unknown = []
        for pattern in patterns:
            matches = [pattern] if pattern in self.targets else fnmatch.filter(self.targets, pattern)
            found.update(matches)
            if not matches:
                unknown.append(pattern)
        if unknown:
            close = nearest(unknown[0], self.targets)
            rows = [("target", name) for name in unknown]
            hint = f"did you mean '{close}'?" if close else "'build list' shows all targets"
            raise UsageError("there is no such target", rows, hint)
        return [name for name in self.targets if name in found]

    def needed(self, targets: Iterable[str]) -> list[str]:
        """The steps that these targets need, themselves included, in an order in which they can be made."""
        wanted = [step for target in targets for step in self.targets[target].steps]
        found: set[str] = set()
        while wanted:
            step = wanted.pop()
            if step not in found:
                found.add(step)
                wanted.extend(self.steps[step].needs())
        return [name for name in self.steps if name in found]


def ordered(
    root: Path,
    steps: Iterable[Step],
    targets: Iterable[Target],
    default: Iterable[str] = (),
    nodes: Mapping[str, Node] | None = None,
    misfits: Iterable[str] = (),
) -> Graph:
    """A graph of steps in an order in which they can be made. Raises UsageError for a cycle, with its path."""
    by_name = {step.name: step for step in steps}
    sorter = TopologicalSorter({name: step.needs() for name, step in by_name.items()})
    try:
        order = list(sorter.static_order())
    except CycleError as error:
        path = list(dict.fromkeys(by_name[name].target for name in reversed(error.args[1])))
        raise UsageError("targets need each other in a circle", [("cycle", " → ".join([*path, path[0]]))]) from error
    found = {name: by_name[name] for name in order}
    return Graph(root, found, {target.name: target for target in targets}, tuple(default), nodes or {}, tuple(misfits))
