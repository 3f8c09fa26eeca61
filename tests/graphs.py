"""Builds over graphs of tiny rules: real store, real workers, real doit; only the rules are small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildsys import plan as planning
from buildsys.errors import BuildError
from buildsys.execute import Outcome, execute
from buildsys.graph import Graph, Output, Step, Target, Text, ordered
from buildsys.store.cache import Cache

RULE = "tests.rules_for_tests.concat"


class Silent:
    """Watches a build and says nothing."""

    def started(self, step: Step) -> None: ...
    def progress(self, step: Step, text: str, share: float | None) -> None: ...
    def ended(self, step: Step, seconds: float) -> None: ...
    def noted(self, step: Step, text: str) -> None: ...
    def failed(self, step: Step, error: BuildError) -> None: ...


@dataclass
class Node:
    """One target: the targets and files it concatenates, and its parameters."""

    parts: list[str]
    suffix: str = ""
    truncate: int = 1000


@dataclass
class World:
    """Files and targets that a test edits between builds."""

    root: Path
    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.root / "ran"

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def graph(self) -> Graph:
        steps = []
        for name, node in self.nodes.items():
            parts = tuple(Output(part) if part in self.nodes else Text(self.root / part) for part in node.parts)
            parameters = {"suffix": node.suffix, "truncate": node.truncate}
            steps.append(Step(name, name, RULE, parameters, {"parts": parts}, settings={"name": name, "log": str(self.log)}))
        return ordered(self.root, steps, [Target(name, "text", name, (name,)) for name in self.nodes])

    def cache(self) -> Cache:
        cache = Cache.open(self.root / "cache")
        cache.prepare()
        return cache

    def plan(self, targets: Sequence[str] = ("*",), *, force: bool = False) -> planning.Plan:
        cache = self.cache()
        observer = cache.observer()
        found = planning.make(self.graph(), cache, observer, targets, force=force)
        observer.save()
        return found

    def build(
        self, targets: Sequence[str] = ("*",), *, jobs: int = 2, keep_going: bool = False, force: bool = False, debug: bool = False
    ) -> Outcome:
        self.log.write_text("")
        cache = self.cache()
        observer = cache.observer()
        plan = planning.make(self.graph(), cache, observer, targets, force=force)
        outcome = execute(plan, cache, observer, Silent(), jobs=jobs, keep_going=keep_going, debug=debug)
        observer.save()
        return outcome

    def ran(self) -> list[str]:
        return sorted(self.log.read_text().split())

    def texts(self) -> dict[str, str]:
        out = self.root / "cache" / "out"
        return {name: (out / name / "text").read_text() for name in self.nodes if (out / name / "text").exists()}


def correct(nodes: Mapping[str, Node], files: Mapping[str, str]) -> dict[str, str]:
    """What a clean build must give: the meaning of the rules, without any build system."""
    found: dict[str, str] = dict(files)

    def text(name: str) -> str:
        if name not in found:
            node = nodes[name]
            found[name] = ("".join(text(part) for part in node.parts) + node.suffix)[: node.truncate]
        return found[name]

    return {name: text(name) for name in nodes}
