"""Tiny checkpoints on disk, made without torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from buildsys.tensors.writing import Writer

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
_SPELT = {"float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64", "int64": "I64"}


def checkpoint(folder: Path, tensors: Mapping[str, Sequence[float]], config: Mapping[str, object] | None = None) -> Path:
    """A model folder with flat float32 tensors."""
    return save(folder, {name: numpy.array(values, dtype="<f4") for name, values in tensors.items()}, config)


def save(folder: Path, tensors: Mapping[str, numpy.ndarray], config: Mapping[str, object] | None = None, file: str = "model") -> Path:
    """A model folder with these arrays; uint16 stands for the bits of bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    header = {name: (_SPELT[str(values.dtype)], values.shape) for name, values in tensors.items()}
    writer = Writer(folder / f"{file}.safetensors", header, {"format": "pt"})
    for name in sorted(tensors):
        if tensors[name].size:
            writer.write(name, numpy.ascontiguousarray(tensors[name]).reshape(-1))
    writer.close()
    return folder


def bfloat16(values: numpy.ndarray) -> numpy.ndarray:
    """The bits of the nearest bfloat16 numbers."""
    import torch

    return torch.tensor(numpy.asarray(values, numpy.float32)).bfloat16().view(torch.uint16).numpy()


def tokenizer(folder: Path, words: Sequence[str], added: Mapping[str, int] = {}, template: str = "") -> Path:
    """A word-level tokenizer.json with added tokens, and a chat template."""
    given = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": row, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for token, row in added.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: row for row, word in enumerate(words)}, "unk_token": words[0]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(given))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def tiny(family: str) -> Any:
    """A causal language model of a few thousand weights: "llama" or "gpt2"."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    sizes = {"vocab_size": 40}
    config = (
        LlamaConfig(**sizes, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
        if family == "llama"
        else GPT2Config(**sizes, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)
