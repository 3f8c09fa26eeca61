"""The memory graph against the Buildfile: nodes and vectors map 1:1, and links lead somewhere. Finds what does not; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping

from buildsys.buildfile import Buildfile
from buildsys.errors import nearest
from buildsys.memory import Node
from buildsys.tables import Behavior, Vector


def problems(file: Buildfile, nodes: Mapping[str, Node]) -> list[str]:
    """Nodes without a vector, vectors without a node, two vectors on one node, links to nowhere, a line each.

    A sum or an analogy needs no node: what it is made of has one.
    """
    on: dict[str, list[str]] = {}
    bare = []
    tables: dict[str, Behavior | Vector] = {**file.behavior, **file.vector}
    for name, table in tables.items():
        if table.node is not None:
            on.setdefault(table.node, []).append(name)
        elif not (isinstance(table, Vector) and (table.sum is not None or table.analogy is not None)):
            bare.append(name)
    found = []
    for node in nodes.values():
        found += [f"node '{name}' has no vector" for name in node.specified() if name not in on and node.id not in on]
    found += [f"vector '{name}' has no node" for name in bare]
    found += [f"node '{name}' has {len(vectors)} vectors: {', '.join(vectors)}" for name, vectors in on.items() if len(vectors) > 1]
    known = dict.fromkeys(name for node in nodes.values() for name in node.names())
    for node in nodes.values():
        for link in node.links:
            if link not in known:
                close = nearest(link, known)
                found.append(f"node '{node.id}' links to '{link}', which is no node{f'; the nearest is {close!r}' if close else ''}")
    return found
