"""config.json of a model: its fields of the right type, its sizes within limits, before transformers allocates what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from buildsys import regular, strict
from buildsys.errors import BuildError

_BYTES_MAX = 10_000_000
_COUNT_MAX, _SIDE_MAX, _POSITIONS_MAX = 10_000, 1 << 26, 1 << 24
_COUNT = re.compile(r"(?:^|.*_)(?:layers?|blocks|heads?|experts|stages)")  # keys of a configuration that say how many modules there are
_SIDE = re.compile(r"(?:^|.*_)(?:size|dim|embd|inner|width|rank|positions|embeddings)")  # and those that say how large they are
_POSITIONS = re.compile(  # and those that say how many tokens it can be given at most
    r"(?:.*_)?(?:positions?|position_embeddings|ctx|ctx_len|ctx_length|context|context_len|context_length|seq_len|seq_length|sequence_length)"
)


class Configuration(BaseModel):
    """What is taken from config.json here; everything else in it is left to transformers."""

    model_config = ConfigDict(strict=True, extra="ignore")

    architectures: list[str] | None = None
    model_type: str | None = None
    vocab_size: int | None = None
    tie_word_embeddings: bool | None = None


def read(folder: Path) -> dict[str, Any]:
    """config.json of a model folder, as `parsed` checks it."""
    try:
        data = regular.read(folder / "config.json", _BYTES_MAX)
    except FileNotFoundError as error:
        raise BuildError("the folder is not a model", [("folder", str(folder)), ("lacks", "config.json")]) from error
    return parsed(data, folder)


def parsed(data: bytes, folder: Path) -> dict[str, Any]:
    """A configuration whose sizes can be allocated, at any depth of it. NaN and infinities pass: some families write them.

    Raises BuildError for a field of another type than `Configuration` has, and for a size beyond its limit.
    """
    facts = [("folder", str(folder))]
    settings = strict.parsed_json(data, "config.json", _BYTES_MAX, facts=facts, nan=True)
    strict.validated(Configuration, settings, "config.json", facts)
    limits = ((_COUNT, _COUNT_MAX), (_POSITIONS, _POSITIONS_MAX), (_SIDE, _SIDE_MAX))
    for name, number in numbers(settings):
        limit = next((limit for names, limit in limits if names.fullmatch(name)), None)
        if limit is not None and abs(number) > limit:
            facts += [(name, strict.shortened(f"{number:,}", 40)), ("limit", f"{limit:,}")]
            raise BuildError("config.json describes a model that is too large", facts)
    return settings


def positions(settings: Any) -> Iterator[tuple[str, int | float]]:
    """(key, number) of every number in a configuration that says how many tokens the model can be given."""
    return ((name, number) for name, number in numbers(settings) if _POSITIONS.fullmatch(name))


def numbers(value: Any) -> Iterator[tuple[str, int | float]]:
    """(key, number) of every number in a configuration; one in a list has the key of the list."""
    if isinstance(value, dict):
        for name, inner in value.items():
            for item in inner if isinstance(inner, list) else (inner,):
                if type(item) in (int, float):
                    yield name, item
                else:
                    yield from numbers(item)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
