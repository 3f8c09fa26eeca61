"""Which files of a folder are a model or an adapter: the one list that is read, hashed, copied into outputs, exported and fetched.

Every other entry (licenses, pickles, `.git`, folders, `additional_chat_templates/` among them) is not part of it and is not opened.
Of the safetensors files only the weights are: what loads the folder elsewhere must find no other model in it than the one that was built.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from buildsys import regular
from buildsys.errors import UsageError

MODEL_FILES = frozenset((
    "config.json", "generation_config.json", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model",
    "spm.model", "spm_char.model", "source.spm", "target.spm", "bpe.codes", "dict.txt", "tekken.json", "prophetnet.tokenizer",
    "vocab-src.json", "vocab-tgt.json", "target_vocab.json", "entity_vocab.json", "normalizer.json", "emoji.json", "byte_maps.json",
    "word_shape.json", "word_pronunciation.json",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "audio_tokenizer_config.json",
))  # fmt: skip
"""What transformers reads for a causal language model: its configurations, and every file that a tokenizer class of it names."""

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
_KINDS = ("safetensors", "tiktoken")  # by their ending: weights in one file or shards, a vocabulary of tiktoken's
MODEL_PATTERNS = [*sorted(MODEL_FILES), *(f"*.{kind}" for kind in _KINDS)]
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_NOT_A_MODEL = ("optimizer.safetensors", *ADAPTER_FILES)
SETTINGS_BYTES_MAX = 200_000_000  # of any file of a model but its weights; the largest tokenizers have a tenth of it
_PLAIN = re.compile(rf"\w[\w.+-]{{0,200}}\.(?:{'|'.join(_KINDS)})", re.ASCII)
_BLOB = re.compile(r"\.\./\.\./blobs/([0-9a-f]{40}|[0-9a-f]{64})")


def model_files(names: Iterable[str]) -> list[str]:
    """Those of a folder's names that may belong to a model, sorted: of any number of safetensors files `weights` says which do."""
    return sorted(name for name in names if name in MODEL_FILES or (_PLAIN.fullmatch(name) and name not in _NOT_A_MODEL))


def weights(folder: Path, names: Iterable[str], shards: Iterable[str] | None) -> list[str]:
    """The files with a model's weights: the shards of its index, or model.safetensors where it has none (None). Some may be missing.

    Raises UsageError for a folder with both, which is two models: the build would read one of them, and transformers the other.
    """
    if shards is None:
        return [WEIGHTS]
    shards = sorted(set(shards))
    if WEIGHTS in names and shards != [WEIGHTS]:
        facts = [("folder", str(folder)), ("first", WEIGHTS), ("second", f"the shards of {INDEX}")]
        raise UsageError("the folder has two models", facts, "remove the one that is not meant")
    return shards


def adapter_files(names: Iterable[str]) -> list[str]:
    """Those of a folder's names that belong to a PEFT adapter, sorted."""
    return sorted(set(names) & set(ADAPTER_FILES))


def check(folder: Path, names: Iterable[str]) -> None:
    """Raises UsageError unless each name stands for a regular file of the folder itself, and only weights are large.

    A link may lead to another file of the folder, or from a snapshot in the Hub's cache to a blob of the same repository;
    any other link would take a file from elsewhere into what is published.
    """
    for name in names:
        path = f"{folder}{os.sep}{name}"
        try:
            status, limit = os.lstat(path), None if name.endswith(".safetensors") else SETTINGS_BYTES_MAX
            if stat.S_ISLNK(status.st_mode):
                _check_link(folder, path)
            if not stat.S_ISREG(status.st_mode) or not status.st_size or (limit is not None and status.st_size > limit):
                regular.check(path, limit)
        except FileNotFoundError as error:
            raise UsageError(f"file not found: {name}", [("folder", str(folder))]) from error


def _check_link(folder: Path, path: str) -> None:
    real, destination = os.path.realpath(folder), os.path.realpath(path)
    blob = _BLOB.fullmatch(os.readlink(path))
    snapshots, repository = os.path.dirname(real), os.path.dirname(os.path.dirname(real))
    in_hub_cache = blob is not None and os.path.basename(snapshots) == "snapshots"
    if destination.startswith(real + os.sep) or (in_hub_cache and blob and destination == os.path.join(repository, "blobs", blob[1])):
        return
    facts = [("link", path), ("destination", destination)]
    raise UsageError(f"{os.path.basename(path)} is a link that leaves its folder", facts, "put a copy of the file into the folder")
