"""What a model folder says of its tokens: vocabulary, added tokens, chat template; and how two folders differ in them. No transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildsys.errors import BuildError, Mismatch

_PLAIN = ("tokenizer.model", "vocab.json", "merges.txt", "spiece.model")  # the vocabulary where there is no tokenizer.json


@dataclass(frozen=True)
class Tokens:
    """One side.

    vocabulary  what text becomes, without the added tokens; equal vocabularies give equal rows
    added       added token -> its row
    size        the row behind the last one of the vocabulary itself
    template    the chat template, "" where there is none
    """

    vocabulary: Any
    added: Mapping[str, int]
    size: int
    template: str


@dataclass(frozen=True)
class Difference:
    """What a model's tokens have that the base's have not.

    added    token -> row in the model, for tokens that the base lacks
    rows     the model's row for each row of the base, −1 for none; empty where every row stands at its own place
    differs  in words, what else is not the same
    """

    added: dict[str, int] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)


def read(folder: Path) -> Tokens | None:
    """None where the folder has no tokenizer: none is needed to merge."""
    whole = folder / "tokenizer.json"
    template = _template(folder)
    if whole.exists():
        given = _json(whole)
        model = given.get("model") or {}
        added = {one["content"]: int(one["id"]) for one in given.get("added_tokens") or []}
        listed = model.get("vocab") or {}
        words = dict(listed) if isinstance(listed, dict) else {one[0]: row for row, one in enumerate(listed)}
        merges = [one if isinstance(one, str) else " ".join(one) for one in model.get("merges") or []]  # two spellings of one thing
        own = {token: row for token, row in added.items() if token not in words}
        return Tokens({"vocab": words, "merges": merges}, own, max(words.values(), default=-1) + 1, template)
    found = {name: (folder / name).read_bytes() for name in _PLAIN if (folder / name).exists()}
    if not found:
        return None
    added_file = folder / "added_tokens.json"
    added = _json(added_file) if added_file.exists() else {}
    return Tokens(found, added, len(_json(folder / "vocab.json")) if "vocab.json" in found else 0, template)


def alike(one: Path, other: Path) -> bool:
    """False where both have a tokenizer, and the vocabularies differ."""
    left, right = read(one), read(other)
    return left is None or right is None or left.vocabulary == right.vocabulary or set(left.vocabulary) != set(right.vocabulary)


def difference(base: Path, model: Path, base_rows: int, model_rows: int) -> Difference:
    """How the model's tokens differ from the base's.

    base_rows, model_rows  of the two embeddings

    Raises BuildError where the vocabularies themselves differ: then a row of the one means something else in the other.
    """
    left, right = read(base), read(model)
    if left is None or right is None:
        if base_rows != model_rows:
            facts = [("base", f"{base_rows} rows of embeddings"), ("model", f"{model_rows} rows of embeddings")]
            raise Mismatch(
                "the vocabularies differ, and there is no tokenizer to tell which row is which", facts, "add the tokenizer's files"
            )
        return Difference()
    if set(left.vocabulary) != set(right.vocabulary) and base_rows == model_rows:
        return Difference(differs=["a tokenizer in other files, which cannot be compared"])
    if left.vocabulary != right.vocabulary:
        facts = [("base", f"{left.size} tokens"), ("model", f"{right.size} tokens"), ("first difference", _first(left, right))]
        raise Mismatch("the model has another tokenizer than the base", facts, "vectors add up only where a token means the same row")
    added = {token: row for token, row in right.added.items() if token not in left.added}
    moved = {row: right.added.get(token, -1) for token, row in left.added.items()}
    taken = set(right.added.values())
    rows = [moved.get(row, row if row < model_rows and row not in taken else -1) for row in range(base_rows)]
    differs = [f"{len(added)} added tokens ({', '.join(list(added)[:3])}{', …' if len(added) > 3 else ''})"] if added else []
    lost = [token for token in left.added if token not in right.added]
    differs += [f"{len(lost)} tokens that only the base has ({', '.join(lost[:3])})"] if lost else []
    differs += ["another chat template"] if left.template != right.template else []
    identity = base_rows == model_rows and rows == list(range(base_rows))
    return Difference(added, [] if identity else rows, differs)


def _first(left: Tokens, right: Tokens) -> str:
    one, other = (side.vocabulary.get("vocab") for side in (left, right))
    if isinstance(one, dict) and isinstance(other, dict):
        for token in sorted({*one, *other}, key=lambda token: (min(one.get(token, 1 << 60), other.get(token, 1 << 60)), token)):
            if one.get(token) != other.get(token):
                return f"{token!r}: row {one.get(token, 'none')} against {other.get(token, 'none')}"
    return next((name for name in left.vocabulary if left.vocabulary[name] != right.vocabulary.get(name)), "the kind of tokenizer")


def _template(folder: Path) -> str:
    own = folder / "chat_template.jinja"
    if own.exists():
        return own.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    found = _json(settings).get("chat_template") if settings.exists() else None
    return "" if found is None else found if isinstance(found, str) else json.dumps(found, sort_keys=True)


def _json(file: Path) -> dict[str, Any]:
    try:
        given = json.loads(file.read_bytes())
        if isinstance(given, dict):
            return given
    except ValueError:
        pass
    raise BuildError(f"{file.name} cannot be read", [("file", str(file))], "download it again")


def extended(tokenizer: bytes, config: bytes | None, sources: Mapping[str, Mapping[str, Any]], first: int) -> tuple[bytes, bytes | None]:
    """tokenizer.json and tokenizer_config.json with the added tokens of other models, in order, from row `first` on.

    sources  token -> its entry in `added_tokens` of the model that has it
    """
    given = json.loads(tokenizer)
    new = {token: first + place for place, token in enumerate(sources)}
    given["added_tokens"] = [*(given.get("added_tokens") or []), *({**entry, "id": new[token]} for token, entry in sources.items())]
    whole = json.dumps(given, ensure_ascii=False, indent=2).encode()
    if config is None:
        return whole, None
    settings = json.loads(config)
    if "added_tokens_decoder" in settings:
        settings["added_tokens_decoder"] |= {
            str(new[token]): {key: value for key, value in entry.items() if key != "id"} for token, entry in sources.items()
        }
    return whole, json.dumps(settings, ensure_ascii=False, indent=2).encode()


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Added token -> its whole entry in tokenizer.json."""
    return {one["content"]: one for one in _json(folder / "tokenizer.json").get("added_tokens") or []}
