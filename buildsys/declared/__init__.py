"""Buildfile + memory graph -> the build graph: what each declared table becomes. Collects every problem before it complains."""

from __future__ import annotations

import fnmatch

from buildsys.buildfile import Buildfile
from buildsys.declared import bases, behaviors, merges, vectors
from buildsys.declared.reader import Reader
from buildsys.errors import nearest
from buildsys.graph import Graph, ordered
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
    made = {target.name for target in reader.targets}
    every = [f"{kind}-{name}" for kind, table in _KINDS for name in file.known[table]]
    for name in file.build.default:
        if name not in made and not fnmatch.filter(every, name):
            close = nearest(name, every)
            file.problem(("build", "default"), f"there is no target '{name}'", f"the nearest target is '{close}'" if close else "")
    file.check()
    if reader.later:
        raise reader.later[0]
    return ordered(reader.root, reader.steps.values(), reader.targets, file.build.default)
