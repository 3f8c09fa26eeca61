"""A model folder as transformers may read it: what in its settings would choose code, or a file elsewhere, is left out.

transformers takes from a config which attention, experts, kernels, fusions, quantizer, pipeline, processor or class of a module on the
Hub to run, and looks for an adapter beside the weights. None of that is for a folder to decide: it is data. Loading goes through a folder
of links that has what it may, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from buildsys import regular, strict
from buildsys.errors import BuildError
from buildsys.tensors import checkpoints, configuration, folders, tokens

_BYTES_MAX = 100_000_000
ATTENTION = ("sdpa", "eager")  # of transformers itself, on every device
EXPERTS = ("grouped_mm", "batched_mm", "eager")
_DTYPES = {"float64", "float32", "float16", "bfloat16"}
_LEFT_OUT = {  # at any depth of a config; matched without leading underscores and "_internal"
    "attn_implementation", "experts_implementation", "fusion_config", "kernel_config", "use_kernels", "allow_all_kernels",
    "auto_map", "custom_pipelines", "custom_generate", "custom_object_save", "trust_remote_code", "code_revision",
    "processor_class", "image_processor_class", "feature_extractor_class", "tokenizer_class", "transformers_weights", "extra_files",
    "quantization_config", "compression_config", "distributed_config", "device_map", "base_model_tp_plan", "base_model_ep_plan",
    "base_model_pp_plan", "tp_plan", "adapter_kwargs", "name_or_path", "commit_hash", "compile_config", "task_specific_params",
}  # fmt: skip
_FILES = ("_file", "_files", "_path", "_dir")  # ends of the names of settings that name files
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens")  # a token or several
_TOKENS_MAX = 1_000
_NUMBERS = ("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty", "no_repeat_ngram_size")
_WEIGHTS = (".safetensors", ".safetensors.index.json")


@contextlib.contextmanager
def of_model(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """(a folder with the weights, and settings that choose no code; what its config may choose: attention and experts of transformers').

    Raises BuildError for a quantized model, whose weights are codes.
    """
    config = configuration.read(folder)
    if config.get("quantization_config"):
        raise BuildError("the model is quantized", [("folder", str(folder)), ("config.json", "has quantization_config")])
    chosen: dict[str, str] = {}
    for name, known in (("attn_implementation", ATTENTION), ("experts_implementation", EXPERTS)):
        value = config.get(name, config.get(f"_{name}"))
        if isinstance(value, str) and value in known:
            chosen[name] = value
    settings = {"config.json": _data(config), "generation_config.json": _generation(folder)}
    index = "model.safetensors.index.json"
    weights = [file.name for file in checkpoints.weight_files(folder)]
    with _view(folder, [*weights, *([index] if (folder / index).exists() else [])], settings) as view:
        yield view, chosen


def generation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that choose among tokens, as far as they are tokens and numbers: what ends a text, what is sampled from.

    Left out is everything else: other algorithms (beams, assistants, other layers), lengths, caches, code.
    """
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        several = value if isinstance(value, list) else [value]
        are_tokens = 0 < len(several) <= _TOKENS_MAX and all(type(one) is int and 0 <= one < 1 << 31 for one in several)
        is_number = type(value) is int or (type(value) is float and math.isfinite(value))
        if (name in _TOKENS and are_tokens) or (name in _NUMBERS and is_number):
            kept[name] = value
    return kept


def _generation(folder: Path) -> dict[str, Any] | None:
    own = _json(folder / "generation_config.json")
    return None if own is None else generation(own)


@contextlib.contextmanager
def of_tokenizer(folder: Path) -> Iterator[Path]:
    """A folder with the tokenizer's files, and settings that choose nothing but one of transformers' own tokenizers.

    Raises BuildError for a `tokenizer_class` that is something else of transformers, and for a tokenizer.json that lets texts grow.
    """
    tokens.check_steps(folder)
    config, own = _json(folder / "config.json"), _json(folder / "tokenizer_config.json")
    special = _json(folder / "special_tokens_map.json")
    for given in (config, own):
        if given is not None:
            _check_class(given.get("tokenizer_class"))
    kept = None if config is None else {**_data(config), **{key: config[key] for key in ("tokenizer_class",) if key in config}}
    settings = {"config.json": kept, "tokenizer_config.json": _tokens(own), "special_tokens_map.json": _tokens(special)}
    names = folders.model_files(os.listdir(folder)) if folder.is_dir() else []
    with _view(folder, [name for name in names if not name.endswith(_WEIGHTS)], settings) as view:
        yield view


@contextlib.contextmanager
def _view(folder: Path, names: Iterable[str], settings: dict[str, dict[str, Any] | None]) -> Iterator[Path]:
    """Links to files of a folder, and settings in place of its own."""
    with tempfile.TemporaryDirectory() as made:
        view = Path(made)
        for name in names:
            if name not in settings:
                (view / name).symlink_to((folder / name).resolve())
        for name, value in settings.items():
            if value is not None:
                (view / name).write_text(json.dumps(value))
        yield view


def _json(file: Path) -> dict[str, Any] | None:
    """A table of settings, None where there is none. Raises BuildError for what is not one."""
    try:
        data = regular.read(file, _BYTES_MAX)
    except FileNotFoundError:
        return None
    return strict.parsed_json(data, file.name, _BYTES_MAX, facts=[("file", str(file))], nan=True)


def _data(value: Any) -> Any:
    """Settings without those that choose code, at every depth, and without texts that could name something elsewhere."""
    if isinstance(value, dict):
        return {key: _data(inner) for key, inner in value.items() if not _chooses(str(key), inner)}
    return [_data(inner) for inner in value] if isinstance(value, list) else value


def _chooses(key: str, value: Any) -> bool:
    name = key.lstrip("_").removesuffix("_internal")
    if name in ("dtype", "torch_dtype"):
        return isinstance(value, str) and value.removeprefix("torch.") not in _DTYPES
    return name in _LEFT_OUT or name.endswith(_FILES) or (isinstance(value, str) and any(mark in value for mark in ("/", "\\", "::")))


def _tokens(own: dict[str, Any] | None) -> dict[str, Any] | None:
    """Settings of a tokenizer: its texts are tokens and templates, and files are found by their names."""
    if own is None:
        return None
    kept = _LEFT_OUT - {"tokenizer_class"}
    return {key: value for key, value in own.items() if key.lstrip("_") not in kept and not key.endswith(_FILES)}


def _check_class(name: Any) -> None:
    """A name that transformers does not know loads tokenizer.json as it stands; one that it knows has to be a tokenizer's."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    if name is None:
        return
    try:
        known = [tokenizer_class_from_name(str(name).removesuffix("Fast") + end) for end in ("", "Fast")] if isinstance(name, str) else [0]
    except (ImportError, AttributeError, TypeError, RuntimeError):
        known = [0]
    for one in known:
        own = isinstance(one, type) and issubclass(one, PreTrainedTokenizerBase) and one.__module__.startswith("transformers.")
        if one is not None and not own:
            facts = [("tokenizer_class", str(name))]
            raise BuildError(
                "the tokenizer's class is not a tokenizer of transformers", facts, "load it by its own code, and save it as tokenizer.json"
            )
