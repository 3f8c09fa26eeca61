"""Two checkpoints side by side: which tensor is which, and the one that does not match, with both sides. Headers only, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from buildsys.errors import BuildError, Mismatch, nearest
from buildsys.tensors import checkpoints, configuration, tokens
from buildsys.tensors.checkpoints import Checkpoint, Entry

TOKEN_TABLES = ("embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out")
"""Parts of the names of tensors that have a row for each token."""

HEADS = ("lm_head.weight", "embed_out.weight")


def by_token(name: str) -> bool:
    """True for embeddings and output head."""
    return any(part in TOKEN_TABLES for part in name.split("."))


def pairs(base: Checkpoint, model: Checkpoint, other_rows: bool = False) -> Iterator[tuple[str, Entry, Entry]]:
    """(name, the base's entry, the model's) for every tensor of the base.

    other_rows  embeddings and head may have another number of rows

    A head that one side stores and the other ties to its embeddings is the embeddings' twin; it has to be their equal in bytes.
    Raises BuildError for the first tensor that differs in presence, shape or dtype, naming both sides.
    """
    for name in sorted({*base.names, *model.names}):
        one, other = base.entries.get(name), model.entries.get(name)
        if one is None and other is not None and _is_twin(model, name):
            continue
        if other is None and one is not None and name in HEADS and _tied(model):
            other = embeddings_of(model)
        if one is None or other is None or one.dtype != other.dtype or not _same_shape(one, other, other_rows and by_token(name)):
            close = nearest(name, model.names if other is None else base.names) if one is None or other is None else None
            raise mismatch(name, one, other, "base", "model", close)
        yield name, one, other


def compared(base: Path, model: Path) -> tuple[Checkpoint, Checkpoint, tokens.Difference]:
    """Two folders and how their tokens differ. Raises Mismatch where no vector can be taken between them."""
    left, right = Checkpoint(base), Checkpoint(model)
    rows = [next((one.entries[name].shape[0] for name in one.names if by_token(name)), 0) for one in (left, right)]
    found = tokens.difference(base, model, *rows)
    for name, one, other in pairs(left, right, bool(found.rows)):
        if one.dtype not in checkpoints.DTYPES and _bytes(one) != _bytes(other):
            raise Mismatch(f"tensor '{name}' differs and is not floating-point", [("dtype", one.dtype)], "no vector can be taken of it")
    return left, right, found


def _same_shape(one: Entry, other: Entry, but_rows: bool) -> bool:
    return one.shape == other.shape or (but_rows and one.shape[1:] == other.shape[1:])


def _is_twin(model: Checkpoint, name: str) -> bool:
    """True for a stored head that says the same as the embeddings it is tied to."""
    embeddings = embeddings_of(model) if name in HEADS and _tied(model) else None
    return embeddings is not None and _bytes(embeddings) == _bytes(model.entries[name])


def twin(model: Checkpoint) -> tuple[str, str] | None:
    """(head, embeddings) of a model that ties the two and stores both."""
    embeddings = next((name for name in model.names if model.entries[name] == embeddings_of(model)), None)
    head = next((name for name in HEADS if name in model.entries), None)
    if head is None or embeddings is None or not _tied(model) or model.entries[head].shape != model.entries[embeddings].shape:
        return None
    return (head, embeddings) if _bytes(model.entries[head]) == _bytes(model.entries[embeddings]) else None


def _tied(model: Checkpoint) -> bool:
    given = configuration.read(model.place) if model.place.is_dir() else {}
    return bool(given.get("tie_word_embeddings", given.get("model_type") in ("gpt2", "gemma", "gemma2", "gemma3_text")))


def embeddings_of(model: Checkpoint) -> Entry | None:
    return next((model.entries[name] for name in model.names if by_token(name) and name not in HEADS and "wpe" not in name), None)


def _bytes(entry: Entry) -> bytes:
    with open(entry.file, "rb") as file:
        file.seek(entry.start)
        return file.read(entry.stop - entry.start)


def mismatch(
    name: str, one: Entry | None, other: Entry | tuple[int, ...] | None, left: str, right: str, close: str | None = None
) -> BuildError:
    """`one` and `other` as their sides have the tensor; a shape alone where the side has no file of it."""
    facts = [(left, one.described() if one else "has none")]
    facts += [(right, str(list(other)) if isinstance(other, tuple) else other.described() if other else "has none")]
    if close:
        facts.append(("nearest there", close))
    return Mismatch(f"tensor '{name}' does not match", facts, "a vector is taken from a model that was tuned from this base")
