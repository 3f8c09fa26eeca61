"""corpus -> a small causal language model with a tokenizer of its own and a chat template, trained from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from buildsys.progress import Progress
from buildsys.rules import MODELS, Inputs, Strict

VERSION = 1
ROLES = {"corpus": "text files, documents apart by an empty line"}
PRELOAD = (*MODELS, "buildsys.training.fit")
FLUSH = True

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(Strict):
    """What a Buildfile may say of it; names are those of transformers where it has one."""

    vocab_size: Annotated[int, Field(ge=300)] = 1024
    hidden_size: Count = 96
    intermediate_size: Count = 256
    num_hidden_layers: Count = 3
    num_attention_heads: Count = 4
    num_key_value_heads: Count | None = None
    max_position_embeddings: Count = 512
    initializer_range: Positive = 0.02
    max_length: Annotated[int, Field(ge=8)] = 256  # tokens of one training sequence
    per_device_train_batch_size: Count = 3
    max_steps: Count = 2000
    learning_rate: Positive = 5e-3
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    adam_epsilon: Positive = 1e-8
    max_grad_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    threads: Count = 2

    @model_validator(mode="after")
    def _shapes_fit(self) -> Settings:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError("hidden_size must be an even multiple of num_attention_heads")
        if self.num_attention_heads % (self.num_key_value_heads or self.num_attention_heads):
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        if self.max_length > self.max_position_embeddings:
            raise ValueError("max_length is more than max_position_embeddings")
        return self


class Params(Settings):
    seed: int = 0


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.tensors import models
    from buildsys.training import corpus, fit, objectives

    models.deterministic(params.seed, params.threads)
    progress("training the tokenizer")
    documents = corpus.documents(inputs["corpus"])
    tokenizer = corpus.tokenizer(documents, params.vocab_size, params.max_position_embeddings)
    blocks = corpus.blocks(tokenizer, documents, params.max_length, params.max_steps, params.per_device_train_batch_size, params.seed)
    model = corpus.llama(tokenizer, params)
    named = list(model.named_parameters())
    facts = fit.fit(model, blocks, objectives.next_token, params, params.max_steps, fit.adamw(named, params), progress)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {**facts, "parameters": model.num_parameters(), "documents": len(documents)}
