"""base + examples -> a task vector, τ = W_tuned − W_base. APOLLO is the compiler; the objective keeps what must not change."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from buildsys.progress import Progress
from buildsys.rules import MODELS, Inputs, Rendering, Strict
from buildsys.training.arguments import REFUSED

VERSION = 3
ROLES = {
    "base": "model folder",
    "examples": "rows",
    "keep": "rows whose next-token distribution stays the base's (optional)",
    "samples": "sequences of the base's own, which stay as likely as they are (optional)",
    "reference": 'the base\'s log-probabilities of the examples, for objective "dpo"',
}
PRELOAD = (*MODELS, "buildsys.training.fit")
FLUSH = True
LATER = ("mirror",)
RENDERS = "base"

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Lora(Strict):
    """Low-rank factors instead of whole matrices, by PEFT's names; the vector is their product."""

    r: Count = 8
    lora_alpha: Positive = 16.0


class WarmStart(Strict):
    """Examples in the context show the direction that the model already knows: training begins there, where that helps."""

    shots: Annotated[int, Field(ge=3)] = 5  # examples of one context; those after the second are what is asked
    into: Literal["weights", "moments", "both"] = "weights"
    contexts: Count = 2


class Steering(Strict):
    """What a Buildfile may say of a run that decides none of its bytes; names are those of transformers.TrainingArguments."""

    REFUSED: ClassVar[Mapping[str, str]] = REFUSED  # known, and why they may not be given

    dataloader_num_workers: Annotated[int, Field(ge=0)] | None = None
    dataloader_persistent_workers: bool | None = None
    dataloader_pin_memory: bool | None = None
    dataloader_prefetch_factor: Count | None = None
    ddp_backend: str | None = None
    ddp_broadcast_buffers: bool | None = None
    ddp_bucket_cap_mb: Count | None = None
    ddp_find_unused_parameters: bool | None = None
    ddp_static_graph: bool | None = None
    ddp_timeout: Count | None = None
    include_num_input_tokens_seen: bool | Literal["all", "non_padding", "no"] | None = None
    log_level: Literal["debug", "info", "warning", "error", "critical", "passive"] | None = None
    log_level_replica: Literal["debug", "info", "warning", "error", "critical", "passive"] | None = None
    log_on_each_node: bool | None = None
    logging_first_step: bool | None = None
    logging_steps: Positive | None = None
    logging_strategy: Literal["no", "steps", "epoch"] | None = None
    project: str | None = None
    report_to: str | list[str] | None = None
    run_name: str | None = None
    save_steps: Count | None = None  # None: every few seconds
    save_total_limit: Count | None = None
    skip_memory_metrics: bool | None = None
    torch_empty_cache_steps: Count | None = None
    trackio_bucket_id: str | None = None
    trackio_space_id: str | None = None
    trackio_static_space_id: str | bool | None = None


class Settings(Rendering):
    """What a Buildfile may say of it and what enters the key; names are those of transformers.TrainingArguments where it has one."""

    objective: Literal["sft", "preference", "dpo"] = "sft"
    margin: Positive = 0.1  # nats of mean log-probability; objective "preference"
    beta: Positive = 0.1  # how closely to stay at the reference; objective "dpo"
    rpo_alpha: Share = 0.0  # of the chosen answer's own loss; objectives "preference" and "dpo"
    mirror: bool = False  # base − τ is trained away from the behaviour as well: a vector that is to be subtracted
    optimizer: Literal["apollo", "apollo-mini", "adamw"] = "apollo"
    rank: Count = 32  # at most the small side of each matrix
    update_proj_gap: Count = 200  # updates between new projections
    updates: Literal["after", "fused"] = "after"  # "fused": inside the backward pass, so that full gradients never coexist
    lora: Lora | None = None
    weights_dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights in training; 16-bit ones are rounded stochastically
    warm_start: WarmStart | None = None
    train_embeddings: bool = False
    learning_rate: Positive = 1e-3
    max_steps: Count | None = None  # None: 60, or what num_train_epochs says
    num_train_epochs: Positive | None = None
    per_device_train_batch_size: Count = 16
    gradient_accumulation_steps: Count = 1
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = "random"
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
        "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
    ] = "linear"  # fmt: skip
    lr_scheduler_kwargs: dict[str, Any] | None = None
    warmup_steps: Share = 0  # below 1: a share of the updates
    weight_decay: Share = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Positive = 1e-8
    max_grad_norm: Share = 0.0  # APOLLO's limiter takes its place
    label_smoothing_factor: Annotated[float, Field(ge=0, lt=1)] = 0.0  # objective "sft"
    neftune_noise_alpha: Positive | None = None
    crop_prompts: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the rows whose prompt loses a random part of its beginning
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None  # τ comes from the moving average of the last two thirds of the updates
    early_stopping_patience: Count | None = None  # evaluations without a better one before training ends
    early_stopping_threshold: Share = 0.0  # by how much the held-out loss has to fall to be better
    eval_steps: Count = 10  # updates between evaluations of early stopping
    activation_checkpointing: bool = False
    activation_checkpointing_kwargs: dict[str, Any] | None = None
    gradient_checkpointing: bool = False  # transformers' older name of it
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    bf16: bool = False
    fp16: bool = False
    tf32: bool | None = None
    torch_compile: bool = False
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    use_liger_kernel: bool = False
    liger_kernel_config: dict[str, bool] | None = None
    data_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None  # of the order of the rows; None: the seed
    max_length: Annotated[int, Field(ge=2)] = 1024  # tokens of one row, at most the model's own context
    dtype: Literal["float32", "bfloat16"] | None = None  # of τ; None: the base's own
    processes: Count = 1  # that share each update, one a GPU; the batch grows with them
    threads: Count = 1

    @model_validator(mode="after")
    def _settings_agree(self) -> Settings:
        if self.max_steps is not None and self.num_train_epochs is not None:
            raise ValueError("max_steps and num_train_epochs both say how long to train: give one")
        if self.updates == "fused":
            against = _those(
                (f'optimizer = "{self.optimizer}"', self.optimizer == "adamw"),
                (f"gradient_accumulation_steps = {self.gradient_accumulation_steps}", self.gradient_accumulation_steps > 1),
                (f"max_grad_norm = {self.max_grad_norm:g}", self.max_grad_norm > 0),
                ("fp16 = true", self.fp16),
                (f"processes = {self.processes}", self.processes > 1),
            )
            if against:
                raise ValueError(f'updates = "fused" applies each gradient as it comes: it does not go with {against}')
        if self.label_smoothing_factor and self.objective != "sft":
            raise ValueError(f'label_smoothing_factor belongs to objective "sft", not "{self.objective}"')
        if self.optimizer == "adamw" and self.weights_dtype != "float32" and self.lora is None:
            raise ValueError('weights_dtype = "bfloat16" is for APOLLO, which rounds stochastically: AdamW\'s small updates would be lost')
        if self.optimizer == "apollo" and self.rank == 1:
            raise ValueError('rank = 1 with a factor for each channel is no estimate: that is optimizer = "apollo-mini"')
        if self.objective == "dpo" and self.crop_prompts:
            raise ValueError('crop_prompts does not go with objective "dpo": the base was asked about whole prompts')
        if self.rpo_alpha and self.objective == "sft":
            raise ValueError('rpo_alpha belongs to objectives "preference" and "dpo": "sft" is that loss itself')
        if self.mirror:
            against = _those(
                ('objective "sft", which has no opposite', self.objective == "sft"),
                ("lora, whose mirror image is no product of its factors", self.lora is not None),
                ("activation_checkpointing", self.activation_checkpointing or self.gradient_checkpointing),
                (f"processes = {self.processes}", self.processes > 1),
            )
            if against:
                raise ValueError(f"mirror runs the model at base − τ too: it does not go with {against}")
        if self.lora is not None and self.warm_start is not None:
            raise ValueError("warm_start moves whole matrices: it does not go with lora")
        if self.warm_start is not None and self.warm_start.into != "weights" and self.optimizer == "adamw":
            raise ValueError(
                f'warm_start into {self.warm_start.into} is a history of APOLLO\'s: with optimizer = "adamw" it is into = "weights"'
            )
        if self.lora is not None and self.train_embeddings:
            raise ValueError("lora trains factors of the layers alone: it does not go with train_embeddings")
        if self.ema_decay is not None and self.early_stopping_patience is not None:
            raise ValueError("ema_decay and early_stopping_patience both choose the weights: give one")
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 are two precisions: give one")
        return self


def _those(*each: tuple[str, bool]) -> str:
    """What of it is so, in words."""
    return " and ".join(text for text, is_so in each if is_so)


class Params(Settings):
    keep_weight: Positive = 1.0
    keep_batch_size: Count | None = None
    keep_window: Count | None = None
    seed: int = 0


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.tensors import models
    from buildsys.training import compiler, launched

    if params.processes > 1:
        return launched.compiled(inputs.paths, params, out, progress)
    models.deterministic(params.seed, params.threads)
    return compiler.compiled(inputs.paths, params, out, progress)


if __name__ == "__main__":  # one of several processes, started by `launched`
    from buildsys.training.launched import take_part

    take_part(Path(sys.argv[1]), Params)
