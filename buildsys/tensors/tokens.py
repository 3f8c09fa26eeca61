"""What a model folder says of its tokens: vocabulary, added tokens, chat template; and how two folders differ in them. No transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildsys import regular, strict
from buildsys.errors import BuildError, Mismatch

_PLAIN = ("tokenizer.model", "vocab.json", "merges.txt", "spiece.model")  # the vocabulary where there is no tokenizer.json
_BYTES_MAX = 200_000_000
_ROW_MAX = (1 << 26) - 1  # the last row of the largest table of embeddings that a configuration may have
_AGAIN = "download it again"
_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")  # of a tokenizer.json: what a text goes through beside its model
_STEPS_MAX = 64  # of one of them, and of the parts of a template
_GROWTH_MAX = 4_096  # times its length, which the steps of one of them may give a text
_GROWTH = {"ByteLevel": 2, "Precompiled": 8}  # characters for each one, at most as far as known; of what is not here one


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
    """None where the folder has no tokenizer: none is needed to merge. Raises BuildError for files that are not a tokenizer's."""
    template = _template(folder)
    whole = _bytes(folder / "tokenizer.json")
    if whole is not None:
        return parsed(whole, template, folder / "tokenizer.json")
    plain = {name: data for name in _PLAIN if (data := _bytes(folder / name)) is not None}
    if not plain:
        return None
    added = _bytes(folder / "added_tokens.json")
    size = len(parsed_rows(plain["vocab.json"], folder / "vocab.json")) if "vocab.json" in plain else 0
    return Tokens(plain, {} if added is None else parsed_rows(added, folder / "added_tokens.json"), size, template)


def parsed(data: bytes, template: str, file: Path) -> Tokens:
    """What a tokenizer.json says. Raises BuildError unless vocabulary, merges and added tokens are as the tokenizers library has them."""
    document = _json(data, file)
    model = document.get("model") or {}
    if not isinstance(model, dict):
        raise _odd(file, "model", "is not a table")
    vocabulary, merges = model.get("vocab") or {}, model.get("merges") or []
    if isinstance(vocabulary, dict):
        words = _checked_rows(vocabulary, "model.vocab", file)
    elif isinstance(vocabulary, list) and all(type(entry) is list and entry and type(entry[0]) is str for entry in vocabulary):
        words = {entry[0]: row for row, entry in enumerate(vocabulary)}
    else:
        raise _odd(file, "model.vocab", "is not a table from tokens to rows, nor a list of tokens with their scores")
    if not isinstance(merges, list) or not all(type(pair) is str or _is_pair(pair) for pair in merges):
        raise _odd(file, "model.merges", "is not a list of pairs")
    joined = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]  # two spellings of one thing
    added = {entry["content"]: entry["id"] for entry in _added_tokens(document, file)}
    own = {token: row for token, row in added.items() if token not in words}
    return Tokens({"vocab": words, "merges": joined}, own, max(words.values(), default=-1) + 1, template)


def check_steps(folder: Path) -> None:
    """Raises BuildError where a folder's tokenizer.json has steps without number, or such as would make a short text fill the memory."""
    file = folder / "tokenizer.json"
    data = _bytes(file)
    document = {} if data is None else _json(data, file)
    for name in _STEPS:
        number, growth = 0, 1.0
        pending = [document.get(name)]
        while pending:
            part = pending.pop()
            if isinstance(part, list):
                pending += part
            elif isinstance(part, dict):
                number += "type" in part
                growth *= _growth(part)
                pending += [inner for inner in part.values() if isinstance(inner, (dict, list))]
                number = max(number, *(len(part[key]) for key in ("single", "pair") if isinstance(part.get(key), list)), 0)
            if number > _STEPS_MAX:
                raise _odd(file, name, f"has more than {_STEPS_MAX} steps")
            if growth > _GROWTH_MAX:
                raise _odd(file, name, f"may make a text more than {_GROWTH_MAX:,} times as long")


def _growth(step: Mapping[str, Any]) -> float:
    """How many times as long a text may be after a step as before it."""
    kind, pattern = step.get("type"), step.get("pattern")
    if kind == "Prepend":
        return 1.0 + len(str(step.get("prepend", "")))
    if kind != "Replace":
        return _GROWTH.get(str(kind), 1)
    content = len(str(step.get("content", "")))
    constant = pattern.get("String") if isinstance(pattern, dict) else pattern
    if isinstance(constant, str) and constant:
        return max(1.0, content / len(constant))
    return 1.0 + content  # an expression may match between any two characters


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
    own, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    return parsed_template(_bytes(own), _bytes(settings), folder)


def parsed_template(own: bytes | None, settings: bytes | None, folder: Path) -> str:
    """The chat template that two files of a folder hold: chat_template.jinja before tokenizer_config.json. Renders nothing."""
    if own is not None:
        try:
            return own.decode()
        except UnicodeDecodeError as error:
            raise _odd(folder / "chat_template.jinja", "byte", f"{error.start:,} is not UTF-8") from error
    template = None if settings is None else _json(settings, folder / "tokenizer_config.json", nan=True).get("chat_template")
    return "" if template is None else template if isinstance(template, str) else json.dumps(template, sort_keys=True)


def extended(
    tokenizer: bytes, config: bytes | None, sources: Mapping[str, Mapping[str, Any]], first: int, folder: Path
) -> tuple[bytes, bytes | None]:
    """tokenizer.json and tokenizer_config.json with the added tokens of other models, in order, from row `first` on.

    sources  token -> its entry in `added_tokens` of the model that has it
    folder   where the two files are, for messages
    """
    document = _json(tokenizer, folder / "tokenizer.json")
    new = {token: first + place for place, token in enumerate(sources)}
    own = _added_tokens(document, folder / "tokenizer.json")
    document["added_tokens"] = [*own, *({**entry, "id": new[token]} for token, entry in sources.items())]
    whole = json.dumps(document, ensure_ascii=False, indent=2).encode()
    if config is None:
        return whole, None
    settings = _json(config, folder / "tokenizer_config.json", nan=True)
    if "added_tokens_decoder" in settings:
        if not isinstance(settings["added_tokens_decoder"], dict):
            raise _odd(folder / "tokenizer_config.json", "added_tokens_decoder", "is not a table")
        settings["added_tokens_decoder"] |= {
            str(new[token]): {key: value for key, value in entry.items() if key != "id"} for token, entry in sources.items()
        }
    return whole, json.dumps(settings, ensure_ascii=False, indent=2).encode()


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Added token -> its whole entry in tokenizer.json."""
    file = folder / "tokenizer.json"
    return {entry["content"]: entry for entry in _added_tokens(_json(regular.read(file, _BYTES_MAX), file), file)}


def _added_tokens(document: Mapping[str, Any], file: Path) -> list[dict[str, Any]]:
    """The entries of `added_tokens`, each with a text as its content and a row as its id."""
    added = document.get("added_tokens") or []
    if not isinstance(added, list):
        raise _odd(file, "added_tokens", "is not a list")
    for position, entry in enumerate(added):
        if not isinstance(entry, dict) or type(entry.get("content")) is not str or not _is_row(entry.get("id")):
            raise _odd(file, f"added_tokens.{position}", f"does not have a content and an id from 0 to {_ROW_MAX:,}")
    return added


def parsed_rows(data: bytes, file: Path) -> dict[str, int]:
    """vocab.json or added_tokens.json: token -> its row. Raises BuildError where a row is not one."""
    return _checked_rows(_json(data, file), "", file)


def _checked_rows(table: dict[str, Any], where: str, file: Path) -> dict[str, int]:
    """The table from tokens to rows, if it is one."""
    wrong = next((token for token, row in table.items() if not _is_row(row)), None)
    if wrong is not None:
        raise _odd(file, f"{where}.{strict.shortened(wrong, 40)}".removeprefix("."), f"is not a row from 0 to {_ROW_MAX:,}")
    return table


def _is_row(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _ROW_MAX


def _is_pair(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and type(value[0]) is str and type(value[1]) is str


def _bytes(file: Path) -> bytes | None:
    """None where the file does not exist."""
    return regular.read(file, _BYTES_MAX) if os.path.lexists(file) else None


def _json(data: bytes, file: Path, *, nan: bool = False) -> dict[str, Any]:
    return strict.parsed_json(data, file.name, _BYTES_MAX, facts=[("file", str(file))], hint=_AGAIN, nan=nan)


def _odd(file: Path, where: str, reason: str) -> BuildError:
    return BuildError(f"{file.name} cannot be read", [("file", str(file)), (where, reason)], _AGAIN)
