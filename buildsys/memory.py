"""memory/*.md -> the nodes of the memory graph: the specification. Its prose is for people and changes nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildsys.errors import UsageError
from buildsys.store.observe import Observer


@dataclass(frozen=True)
class Node:
    id: str
    path: Path
    links: tuple[str, ...]
    aspects: tuple[str, ...]
    own_examples: tuple[str, ...] = ()  # the aspects that hold examples themselves, "" for the node

    def specified(self) -> list[str]:
        """What is to have a vector: each of its aspects, or the node itself where it has none."""
        return [f"{self.id}#{aspect}" for aspect in self.aspects] or [self.id]

    def names(self) -> list[str]:
        """What a behaviour may name: the node, or one of its aspects as `id#aspect`."""
        return [self.id, *(f"{self.id}#{aspect}" for aspect in self.aspects)]


def read(root: Path, pattern: str | None, observer: Observer) -> dict[str, Node]:
    """Every node by its id. Raises UsageError for front matter that does not parse, and for an id that stands twice."""
    nodes: dict[str, Node] = {}
    for path in observer.glob(root, pattern) if pattern else []:
        found = json.loads(observer.derived(path, "memory node", lambda place: json.dumps(_read_node(Path(place)))))
        node = Node(found["id"], path, tuple(found["links"]), tuple(found["aspects"]), tuple(found["own_examples"]))
        if node.id in nodes:
            raise UsageError(f"node '{node.id}' stands in two files", [("first", str(nodes[node.id].path)), ("second", str(path))])
        nodes[node.id] = node
    return nodes


def examples(data: bytes, aspect: str) -> bytes:
    """The fenced `jsonl` blocks of a node, of one aspect or of the node itself (""), as a file of rows with the node's own line numbers."""
    lines, fence, wanted = [], "", False
    for line in data.decode("utf-8", "replace").split("\n"):
        opened = _FENCE.match(line)
        if fence:
            closes = opened is not None and opened[1].startswith(fence) and not opened[2].strip()
            lines.append("" if closes or not wanted else line)
            fence = "" if closes else fence
        else:
            words = opened[2].split() if opened else []
            fence = opened[1] if opened else ""
            wanted = words[:1] == ["jsonl"] and words[1:] == ([aspect] if aspect else [])
            lines.append("")
    return "\n".join(lines).encode()


_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^`]*)$")


def _read_node(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8", [("byte", str(error.start))]) from error
    opening, _, rest = text.partition("---\n")
    head, closed, _ = rest.partition("\n---")
    if opening.strip() or not closed:
        raise UsageError(f"{path} has no front matter", hint="begin the file with '---', 'id: …', '---'")
    try:
        found = yaml.safe_load(head)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 2}" if mark else "front matter"
        raise UsageError(f"{path} has front matter that is no YAML", [(place, getattr(error, "problem", None) or str(error))]) from error
    if not isinstance(found, dict) or not isinstance(found.get("id"), str):
        raise UsageError(f"{path} has no id in its front matter", hint="begin the file with '---', 'id: …', '---'")
    for name in ("links", "aspects"):
        value = found.setdefault(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UsageError(f"{path}: '{name}' is no list of names", hint=f"{name}: [first, second]")
    held = [aspect for aspect in ("", *found["aspects"]) if examples(text.encode(), aspect).strip()]
    return {name: found[name] for name in ("id", "links", "aspects")} | {"own_examples": held}
