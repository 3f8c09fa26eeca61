"""memory/*.md -> the nodes of the memory graph: the specification. Its prose is for people and changes nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildsys import regular
from buildsys.errors import UsageError, reason_of
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
    if pattern and os.path.islink(root / pattern):
        regular.check(root / pattern)  # a link to nothing would match nothing, and be passed over
    for path in observer.glob(root, pattern) if pattern else []:
        found = json.loads(observer.derived(path, "memory node", _read_node))
        node = Node(found["id"], path, tuple(found["links"]), tuple(found["aspects"]), tuple(found["own_examples"]))
        if node.id in nodes:
            raise UsageError(f"node '{node.id}' stands in two files", [("first", str(nodes[node.id].path)), ("second", str(path))])
        nodes[node.id] = node
    return nodes


def examples(data: bytes, aspect: str) -> bytes:
    """The fenced `jsonl` blocks of a node, of one aspect or of the node itself (""), as a file of rows with the node's own line numbers."""
    return "\n".join(line if owner == aspect else "" for owner, line in _owned(data.decode("utf-8", "replace"))).encode()


def _owned(text: str) -> Iterator[tuple[str | None, str]]:
    """(whose example it is, line) of every line: an aspect, "" for the node itself, None outside the fenced `jsonl` blocks."""
    fence, owner = "", None
    for line in text.split("\n"):
        opened = _FENCE.match(line) if "```" in line or "~~~" in line else None
        if fence:
            closes = opened is not None and opened[1].startswith(fence) and not opened[2].strip()
            yield None if closes else owner, line
            fence = "" if closes else fence
        else:
            words = opened[2].split(maxsplit=2) if opened else []
            fence = opened[1] if opened else ""
            owner = " ".join(words[1:]) if words[:1] == ["jsonl"] else None
            yield None, line


_FENCE = re.compile(r" {0,3}(`{3,}+|~{3,}+)([^`]*)$")
_BYTES_MAX = 10_000_000
_FRONT_MATTER_MAX = 32_768  # characters; the parser takes most of a second for as many
_LISTS_MAX = 200


def _read_node(path: str) -> str:
    """A node's front matter and the aspects that hold examples, as JSON. Raises UsageError for a file that is not a node."""
    return json.dumps(parsed(regular.read(path, _BYTES_MAX), path))


def parsed(data: bytes, path: str) -> dict[str, Any]:
    """{id, links, aspects, own_examples} of a node's file. Of its front matter only the first three are looked at.

    Raises UsageError where there is no front matter, or it is not YAML, or one of the three is not what it should be.
    """
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8", [("byte", str(error.start))]) from error
    opening, _, rest = text.partition("---\n")
    head, closed, _ = rest.partition("\n---")
    if opening.strip() or not closed:
        raise UsageError(f"{path} has no front matter", hint="begin the file with '---', 'id: …', '---'")
    if len(head) > _FRONT_MATTER_MAX:
        facts = [("has", f"{len(head):,} characters"), ("limit", f"{_FRONT_MATTER_MAX:,}")]
        raise UsageError(f"{path} has front matter that is too long", facts, "prose stands behind it")
    if head.count("[") + head.count("{") > _LISTS_MAX:  # the parser's time grows with the square of their depth
        raise UsageError(f"{path} has front matter with more than {_LISTS_MAX} lists and tables")
    fields = _front_matter(head, path)
    if not isinstance(fields.get("id"), str):
        raise UsageError(f"{path} has no id in its front matter", hint="begin the file with '---', 'id: …', '---'")
    node: dict[str, Any] = {"id": fields["id"]}
    for name in ("links", "aspects"):
        value = fields.get(name, [])
        if not isinstance(value, list):
            raise UsageError(f"{path}: '{name}' is not a list of names", hint=f"{name}: [first, second]")
        node[name] = value
    unprintable = next((name for name in (node["id"], *node["links"], *node["aspects"]) if not name.isprintable()), None)
    if unprintable is not None:
        raise UsageError(f"{path} has a name with characters that cannot be shown", [("name", repr(unprintable))])
    holding = {owner for owner, line in _owned(text) if owner is not None and line.strip()}
    return node | {"own_examples": [aspect for aspect in ("", *node["aspects"]) if aspect in holding]}


def _front_matter(head: str, path: str) -> dict[str, str | list[str] | None]:
    """The fields of a mapping that are a text or a list of texts; None stands for anything else.

    Read as a tree of nodes, from which nothing is constructed: no tag, no alias and no merge key can do or cost anything.
    """
    import yaml

    try:
        root = yaml.compose(head, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 2}" if mark else "front matter"
        reason = getattr(error, "problem", None) or reason_of(error)
        raise UsageError(f"{path} has front matter that is not YAML", [(place, reason)]) from error
    except RecursionError as error:
        hint = "'id', 'links' and 'aspects' are all that is read"
        raise UsageError(f"{path} has front matter that is nested too deeply", hint=hint) from error

    def text(node: Any) -> str | None:
        return str(node.value) if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str" else None

    fields: dict[str, str | list[str] | None] = {}
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        name = text(key)
        if name is not None:
            texts = [text(item) for item in value.value] if isinstance(value, yaml.SequenceNode) else [None]
            fields[name] = [item for item in texts if item is not None] if None not in texts else text(value)
    return fields
