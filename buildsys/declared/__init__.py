"""Buildfile + memory graph -> the build graph: what each declared table becomes. Collects every problem before it complains."""

from __future__ import annotations

import fnmatch
from dataclasses import replace

from buildsys.buildfile import Buildfile
from buildsys.declared import bases, behaviors, checks, merges, specification, vectors
from buildsys.declared.reader import Reader
from buildsys.errors import nearest
from buildsys.graph import Graph, Output, Step, ordered
from buildsys.store.observe import Observer

_KINDS = (
    ("base", "base"),
    ("vector", "behavior"),
    ("verified", "behavior"),
    ("vector", "vector"),
    ("verified", "vector"),
    ("merged", "merged"),
)


def graph(file: Buildfile, observer: Observer) -> Graph:
    """Raises UsageError with all problems of the file: names, kinds, missing files, cycles, rows that do not fit."""
    reader = Reader(file, observer)
    reader.read_memory()
    for name in set(file.known["behavior"]) & set(file.known["vector"]):
        file.problem(("vector", name), f"'{name}' is a behaviour too, and both would make vector-{name}", "rename one of the two")
    for name, base in file.base.items():
        bases.add(reader, name, base)
    for name, behavior in file.behavior.items():
        behaviors.add(reader, name, behavior)
    for name, vector in file.vector.items():
        if name not in file.known["behavior"]:
            vectors.add(reader, name, vector)
    for name, merged in file.merged.items():
        merges.add(reader, name, merged)
    for name, merged in file.merged.items():
        if merged.checks is not None and f"merged-{name}" in reader.composed:
            checks.add(reader, name, ("merged", name), merged.checks)
    made = {target.name for target in reader.targets}
    every = [f"{kind}-{name}" for kind, table in _KINDS for name in file.known[table]]
    for name in file.build.default:
        if name not in made and not fnmatch.filter(every, name):
            close = nearest(name, every)
            file.problem(("build", "default"), f"there is no target '{name}'", f"the nearest target is '{close}'" if close else "")
    misfits = specification.problems(file, reader.nodes)
    if file.graph.strict and not reader.later:
        for text in misfits:
            file.problem(("graph", "nodes"), text, "'build graph' shows the memory graph; strict = false only reports")
    file.check()
    if reader.later:
        raise reader.later[0]
    found = ordered(reader.root, _after_checks(reader), reader.targets, file.build.default, reader.nodes, misfits)
    return replace(found, template_date=file.build.template_date)


def _after_checks(reader: Reader) -> list[Step]:
    """Every step; those of other targets that read a checked merge wait for its verdict."""
    checked = {target.step: target.steps[-1] for target in reader.targets if target.kind == "merged" and target.steps[-1] != target.step}
    found = []
    for step in reader.steps.values():
        read = [source.step for source in step.sources() if isinstance(source, Output)]
        verdicts = [checked[name] for name in read if name in checked and step.target != name]
        found.append(replace(step, after=(*step.after, *verdicts)) if verdicts else step)
    return found
