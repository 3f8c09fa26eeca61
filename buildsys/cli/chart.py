"""`build graph`: node → behaviour → vector → merges, as text, Mermaid, Graphviz or JSON. Reads declarations; builds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from buildsys.graph import Graph
from buildsys.memory import Node
from buildsys.terminal import printable


def described(graph: Graph, nodes: dict[str, Node], problems: list[str]) -> dict[str, Any]:
    """The memory graph and the targets, with who needs whom."""
    on: dict[str, list[str]] = {}
    for target in graph.targets.values():
        if target.node is not None and target.kind == "vector":
            on.setdefault(target.node, []).append(target.name)
    return {
        "nodes": {
            node.id: {
                "path": str(node.path),
                "links": list(node.links),
                "aspects": list(node.aspects),
                "vectors": {name: on[name] for name in node.names() if name in on},
            }
            for node in nodes.values()
        },
        "targets": {name: {"kind": one.kind, "node": one.node, "needs": _needs(graph, name)} for name, one in graph.targets.items()},
        "problems": problems,
    }


def _needs(graph: Graph, name: str) -> list[str]:
    """The targets that a target needs directly."""
    found = (graph.steps[need].target for step in graph.targets[name].steps for need in graph.steps[step].needs())
    return list(dict.fromkeys(one for one in found if one != name))


def text(found: dict[str, Any]) -> list[str]:
    """Every node with its vectors and the merges that take each, then the vectors that no node specifies."""
    lines: list[str] = []
    users: dict[str, list[str]] = {}
    for name, target in found["targets"].items():
        if target["kind"] == "merged":
            for need in target["needs"]:
                users.setdefault(need, []).append(name)

    def vector(name: str) -> str:
        plain = name.removeprefix("vector-")
        verified = [f"verified-{plain}"] if f"verified-{plain}" in found["targets"] else []
        merges = users.get(name, [])
        return " → ".join([plain, name, *verified, *([", ".join(merges)] if merges else [])])

    for id_, node in found["nodes"].items():
        lines.append(f"{id_}{'  links ' + ', '.join(node['links']) if node['links'] else ''}")
        shown = [id_, *(f"{id_}#{aspect}" for aspect in node["aspects"])]
        for name in shown:
            for one in node["vectors"].get(name, []):
                lines.append(f"  {'#' + name.partition('#')[2] + '  ' if '#' in name else ''}{vector(one)}")
    bare = [name for name, target in found["targets"].items() if target["kind"] == "vector" and target["node"] is None]
    if bare:
        lines += ["(no node)", *(f"  {vector(name)}" for name in bare)]
    lines.append("")
    for name, target in found["targets"].items():
        if target["kind"] in ("base", "merged"):
            needs = [need.removeprefix("vector-") for need in target["needs"] if not need.startswith("verified-")]
            lines.append(f"{name} ← {', '.join(needs)}" if needs else name)
    return lines


def mermaid(found: dict[str, Any]) -> list[str]:
    """A flowchart for Markdown: memory nodes are round, links between them dotted."""
    lines = ["flowchart LR"]
    names = _numbered(found)
    lines += [f'  {names[f"node {id_}"]}(["{_mermaid_text(id_)}"])' for id_ in found["nodes"]]
    lines += [f'  {names[name]}["{_mermaid_text(name)}"]' for name in found["targets"]]
    lines += [f"  {names[left]} {'-.->' if dotted else '-->'} {names[right]}" for left, right, dotted in _edges(found)]
    return lines


def dot(found: dict[str, Any]) -> list[str]:
    """The same for Graphviz."""
    lines = ["digraph build {", "  rankdir=LR;"]
    lines += [f"  {_quoted(f'node {id_}')} [label={_quoted(id_)}, shape=ellipse];" for id_ in found["nodes"]]
    lines += [f"  {_quoted(name)} [shape=box];" for name in found["targets"]]
    lines += [f"  {_quoted(left)} -> {_quoted(right)}{' [style=dotted]' if dotted else ''};" for left, right, dotted in _edges(found)]
    return [*lines, "}"]


def _mermaid_text(text: str) -> str:
    """A label between quotes: Mermaid reads quotes, HTML, Markdown and its own entities there, so what is not plain goes as a code."""
    return "".join([c if c.isalnum() or c in " _-.,:/+=()" else f"#{ord(c)};" for c in printable(text)])


def _quoted(text: str) -> str:
    """A quoted string of DOT, whose labels know escapes with a backslash and entities of HTML."""
    text = printable(text)
    for character, spelling in (("\\", r"\\"), ('"', r"\""), ("&", "&amp;")):
        text = text.replace(character, spelling)
    return f'"{text}"'


def _numbered(found: dict[str, Any]) -> dict[str, str]:
    every = [*(f"node {id_}" for id_ in found["nodes"]), *found["targets"]]
    return {name: f"n{at}" for at, name in enumerate(every)}


def _edges(found: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """(from, to, dotted): links between nodes, nodes to their vectors, targets to those that need them."""
    for id_, node in found["nodes"].items():
        yield from (
            (f"node {id_}", f"node {link.partition('#')[0]}", True) for link in node["links"] if link.partition("#")[0] in found["nodes"]
        )
        yield from ((f"node {id_}", vector, False) for vectors in node["vectors"].values() for vector in vectors)
    for name, target in found["targets"].items():
        yield from ((need, name, False) for need in target["needs"])
