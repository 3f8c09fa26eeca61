"""base + examples -> a task vector, τ = W_tuned − W_base. APOLLO is the compiler; the objective keeps what must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES = {"base": "model folder", "examples": "rows", "keep": "rows whose next-token distribution stays the base's (optional)"}
PRELOAD = ("torch", "transformers", "buildsys.training.fit")
FLUSH = True

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(Strict):
    """What a Buildfile may say of it; names are those of transformers where it has one."""

    objective: Literal["sft", "preference"] = "sft"
    margin: Positive = 0.1  # nats of mean log-probability; objective "preference"
    optimizer: Literal["apollo", "apollo-mini", "adamw"] = "apollo"
    rank: Count = 32  # at most the small side of each matrix
    update_proj_gap: Count = 200  # updates between new projections
    train_embeddings: bool = False
    learning_rate: Positive = 1e-3
    max_steps: Count = 60
    per_device_train_batch_size: Count = 16
    gradient_accumulation_steps: Count = 1
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Positive = 1e-8
    max_grad_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # APOLLO's limiter takes its place
    max_length: Annotated[int, Field(ge=2)] = 1024  # tokens of one row, at most the model's own context
    dtype: Literal["float32", "bfloat16"] | None = None  # of τ; None: the base's own
    threads: Count = 1


class Params(Settings):
    keep_weight: Positive = 1.0
    seed: int = 0


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    import torch

    from buildsys.examples import encode
    from buildsys.tensors import checkpoints, delta, models
    from buildsys.training import fit, objectives, optimizers

    fit.deterministic(params.seed, params.threads)
    model = models.load(inputs["base"], torch.float32)  # small updates to 16-bit weights would round to nothing
    base = checkpoints.Checkpoint(inputs["base"])
    names = delta.stored_names(model, base.entries)
    before = delta.weights(model)
    models.freeze(model, embeddings=not params.train_embeddings)
    tokenizer = encode.load_tokenizer(str(inputs["base"]))
    room = models.context(model, params.max_length)
    examples = encode.encode(tokenizer, fit.rows(inputs["examples"]), room)
    keep = encode.whole(tokenizer, fit.rows(inputs["keep"]), room) if "keep" in inputs else []
    loss = objectives.Behaviour(params.objective, params.margin, model, bool(keep), params.keep_weight)
    batches = objectives.batches(examples, keep, params.max_steps * params.gradient_accumulation_steps, params)
    facts = fit.fit(model, batches, loss, fit.Schedule.of(params), optimizers.make(params, model), progress)
    facts["tau_norm"] = delta.save(model, before, names, params.dtype or checkpoints.delta_dtype(base), out / "vector.safetensors")
    return {**facts, **encode.cut_facts(examples, room)}
