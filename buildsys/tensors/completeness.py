"""Whether a downloaded model folder can be shown to be whole by nothing but itself. Knows file names, and no Hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from buildsys import regular

_INDEX_BYTES_MAX = 100_000_000
_SETTINGS = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_VOCABULARIES = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "added_tokens.json")  # without tokenizer.json


def unproven(folder: Path, is_absent: Callable[[str], bool]) -> list[str]:
    """The files that are not there although the model may have them: config, weights with every shard, settings, the tokenizer's.

    is_absent  True for a file that the model is known not to have
    """
    names = ["config.json", *_weights(folder), *_SETTINGS]
    if not (folder / "tokenizer.json").is_file():
        names += _VOCABULARIES
    return [name for name in names if not (folder / name).is_file() and not is_absent(name)]


def _weights(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    try:
        return sorted(set(map(str, json.loads(regular.read(index, _INDEX_BYTES_MAX))["weight_map"].values())))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return []  # whoever opens the model says what is wrong with it
