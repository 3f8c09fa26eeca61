"""One training run through transformers.Trainer: deterministic, resumable from `progress.folder`, refusing what is not finite."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch.utils.data import Dataset, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from buildsys.errors import BuildError
from buildsys.examples.rows import Row
from buildsys.progress import Progress

Loss = Callable[[PreTrainedModel, Any], torch.Tensor]
SECONDS_BETWEEN_CHECKPOINTS = 15.0
_COMPLETE = "complete"  # written last into a checkpoint: one without it was cut off


@dataclass(frozen=True)
class Schedule:
    """Length, learning rate and batch arithmetic of a run, by transformers' names."""

    learning_rate: float
    max_steps: int
    gradient_accumulation_steps: int
    lr_scheduler_type: str
    warmup_steps: int
    max_grad_norm: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    seed: int

    @classmethod
    def of(cls, params: Any) -> Schedule:
        given: dict[str, Any] = {name: getattr(params, name, 1) for name in cls.__dataclass_fields__}
        return cls(**given)


def deterministic(seed: int, threads: int) -> None:
    """One thread count, one seed, deterministic kernels: the same action gives the same bytes."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    random.seed(seed)


def rows(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_bytes().split(b"\n") if line]  # splitlines would also split at U+2028


def adamw(model: PreTrainedModel, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    betas = (schedule.adam_beta1, schedule.adam_beta2)
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=betas, eps=schedule.adam_epsilon, fused=True)


def fit(
    model: PreTrainedModel,
    batches: Dataset[Any],
    loss: Loss,
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> dict[str, Any]:
    """Train in place and return facts. A killed run goes on from its last complete checkpoint, to the same bytes.

    batches  max_steps · gradient_accumulation_steps batches, read in order
    Raises BuildError as soon as a loss is not finite.
    """
    given = TrainingArguments(
        output_dir=str(progress.folder),
        max_steps=schedule.max_steps,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type=schedule.lr_scheduler_type,
        warmup_steps=schedule.warmup_steps,
        gradient_accumulation_steps=schedule.gradient_accumulation_steps,
        max_grad_norm=schedule.max_grad_norm,
        per_device_train_batch_size=1,  # an item is a whole batch
        seed=schedule.seed,
        logging_steps=max(1, schedule.max_steps // 100),
        logging_nan_inf_filter=False,
        save_strategy="no",  # the callback below decides
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=not torch.accelerator.is_available(),
        full_determinism=False,  # set by `deterministic`, for every rule alike
    )
    trainer = _Trainer(
        loss,
        model=model,
        args=given,
        train_dataset=batches,
        data_collator=_only_item,
        optimizers=(optimizer, None),
        callbacks=[_Watch(progress, schedule.max_steps)],
    )
    trainer.remove_callback(PrinterCallback)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=_last_checkpoint(progress.folder))
    curve = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return {"updates": schedule.max_steps, "loss_curve": curve, "seconds_training": round(time.monotonic() - started, 3)}


class _Trainer(Trainer):
    def __init__(self, loss: Loss, **given: Any) -> None:
        super().__init__(**given)
        self._loss = loss
        self.model_accepts_loss_kwargs = False  # the loss is a mean: accumulated gradients are averaged

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        return self._loss(model, inputs)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]  # the batches are in their order already


class _Watch(TrainerCallback):
    """Progress, checkpoints every few seconds or `save_steps`, and an end to a run whose loss is no number."""

    def __init__(self, progress: Progress, updates: int) -> None:
        self._progress, self._updates = progress, updates
        self._every = progress.settings.get("save_steps")
        self._saved = self._begun = time.monotonic()
        self._begun_at = 0
        self._loss = math.nan

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun, self._begun_at = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in (logs or {}):
            self._loss = logs["loss"]
            if not math.isfinite(self._loss):
                facts = [("update", f"{state.global_step} of {self._updates}"), ("loss", str(self._loss))]
                raise BuildError("the loss is not finite", facts, "lower learning_rate, or add warmup_steps")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        done, now = state.global_step, time.monotonic()
        left = (now - self._begun) / max(1, done - self._begun_at) * (self._updates - done)
        loss = "" if math.isnan(self._loss) else f" · loss {self._loss:.3f}"
        self._progress(f"update {done}/{self._updates}{loss} · {left:.0f} s left", done / self._updates)
        due = done % self._every == 0 if self._every else now - self._saved > SECONDS_BETWEEN_CHECKPOINTS
        if due and done < self._updates:
            control.should_save, self._saved = True, now

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        _seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def _only_item(items: list[Any]) -> Any:
    return items[0]


def _seal(checkpoint: Path) -> None:
    """Bring a checkpoint to the disk, then list the digests of its files: one without the list, or unlike it, was cut off."""
    digests = {}
    for file in sorted(checkpoint.iterdir()):
        with open(file, "rb") as data:
            os.fsync(data.fileno())
        digests[file.name] = blake3(file.read_bytes()).hexdigest()
    with open(checkpoint / _COMPLETE, "w") as listed:
        json.dump(digests, listed)
        listed.flush()
        os.fsync(listed.fileno())


def _sealed(checkpoint: Path) -> bool:
    try:
        digests = json.loads((checkpoint / _COMPLETE).read_text())
        return all(blake3((checkpoint / name).read_bytes()).hexdigest() == digest for name, digest in digests.items())
    except (OSError, ValueError):
        return False


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda place: -int(place.name.partition("-")[2]))
    return next((str(place) for place in found if _sealed(place)), None)
