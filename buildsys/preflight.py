"""What headers alone can say against a build, before a byte of its models is hashed: vectors between models that do not fit together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from buildsys import outside
from buildsys.action import digest_of
from buildsys.errors import BuildError, Mismatch
from buildsys.graph import Folder, Graph, Output, Source
from buildsys.store.observe import Observer
from buildsys.tensors import checkpoints, matching


def check(graph: Graph, patterns: Iterable[str], observer: Observer) -> None:
    """Raises Mismatch, with the target, for the first vector whose model and base have other tensors or another tokenizer.

    Anything else that is wrong with a folder is left to the step that reads it.
    """
    for name in graph.needed(graph.selected(patterns)):
        step = graph.steps[name]
        if step.rule != "extract":
            continue
        base, model = _folder(graph, step.inputs["base"]), _folder(graph, step.inputs["model"])
        if base is None or model is None:
            continue
        try:
            if _headers(base, observer) != _headers(model, observer):
                matching.compared(base.path, model.path)
        except Mismatch as error:
            raise Mismatch(f"{step.target}: {error.headline}", error.facts, error.hint) from None
        except (BuildError, OSError):
            continue


def _folder(graph: Graph, source: Source | tuple[Source, ...]) -> Folder | None:
    """The user's own folder that a step names."""
    if isinstance(source, Output):
        given = graph.steps[source.step].inputs.get("folder")
        if isinstance(given, Folder):
            return given
    return None


def _headers(folder: Folder, observer: Observer) -> list[str]:
    """What tells the tensors of two folders apart, and their tokenizers: read again only when a file changes."""
    names = outside.files(folder, observer)
    headers = [observer.derived(folder.path / name, "header", _header) for name in names if name.endswith(".safetensors")]
    return headers + [observer.digest(folder.path / name) for name in names if name in _TOKENS]


_TOKENS = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")


def _header(path: str) -> str:
    entries = checkpoints.header(Path(path))
    return digest_of(repr(sorted((name, entry.dtype, entry.shape) for name, entry in entries.items())).encode())
