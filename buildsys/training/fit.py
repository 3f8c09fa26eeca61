"""One training run through transformers.Trainer: deterministic, resumable from `progress.folder`, refusing what is not finite."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils.import_utils import is_liger_kernel_available

from buildsys.errors import BuildError
from buildsys.progress import Progress
from buildsys.training import memory
from buildsys.training.arguments import DECISIVE
from buildsys.training.resuming import last_checkpoint, remove_cut_off, seal

Loss = Callable[[PreTrainedModel, Any], torch.Tensor]
SECONDS_BETWEEN_CHECKPOINTS = 15.0
_OURS = {
    "data_seed", "eval_steps", "label_smoothing_factor", "max_steps", "num_train_epochs", "per_device_train_batch_size",
    "train_sampling_strategy",
}  # fmt: skip
"""Arguments that mean here what they mean there, and that are carried out here: by `batching`, `objectives`, `stopping`."""


class Batches(Protocol):
    """All batches of a run in their order: a resumed run reads on where the killed one stopped."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> Any: ...

    def tokens(self, position: int) -> int:
        """Of one batch, without padding."""

    def rows(self, position: int) -> Sequence[int]:
        """The numbers of the rows of one batch, from 0; empty where its rows have no number."""


def adamw(named: Sequence[tuple[str, torch.nn.Parameter]], params: Any) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only."""
    decayed = [p for _, p in named if p.dim() >= 2]
    plain = [p for _, p in named if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": params.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    betas = (params.adam_beta1, params.adam_beta2)
    return torch.optim.AdamW(groups, lr=params.learning_rate, betas=betas, eps=params.adam_epsilon, fused=True)


def fit(
    model: PreTrainedModel,
    batches: Batches,
    loss: Loss,
    params: Any,
    max_steps: int,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train in place and return facts. A killed run goes on from its last complete checkpoint, to the same bytes.

    batches  max_steps · gradient_accumulation_steps · processes batches, read in order
    params   of the rule: the fields that TrainingArguments has are handed to it
    Raises BuildError for the first loss that is not finite, and where memory runs out.
    """
    asked: dict[str, Any] = (
        {
            "output_dir": str(progress.folder),
            "max_steps": max_steps,
            "per_device_train_batch_size": 1,  # an item is a whole batch
            "logging_steps": max(1, max_steps // 100),
            "logging_nan_inf_filter": False,
            "save_strategy": "no",  # the callback below decides
            "save_total_limit": max(2, progress.settings.get("save_total_limit") or 2),  # one is whole while the next is written
            "report_to": "none",
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "dataloader_pin_memory": False,
            "use_cpu": not torch.accelerator.is_available(),
            "full_determinism": False,  # set by `deterministic`, for every rule alike
        }
        | _decisive(params)
        | _steering(progress.settings)
    )
    if asked.get("fp16") and not torch.cuda.is_available():
        raise BuildError("fp16 needs a CUDA device", [("device", "cpu")], "leave fp16 out, or set bf16 = true")
    if asked.get("use_liger_kernel") and not is_liger_kernel_available():  # transformers looks for it only once it trains
        raise BuildError("use_liger_kernel needs the package liger-kernel", hint="pip install liger-kernel, or leave use_liger_kernel out")
    with _told(params):
        given = TrainingArguments(**asked)
    together = given.gradient_accumulation_steps * given.world_size  # batches of one update
    watch = _Watch(progress, batches, max_steps, together)
    with _told(params):
        trainer = _Trainer(
            loss,
            batches,
            progress,
            model=model,
            args=given,
            train_dataset=batches,
            data_collator=_only_item,
            optimizers=(optimizer, None),
            callbacks=[*callbacks, watch],  # what others save into a checkpoint is there when it is sealed
        )
        trainer.create_scheduler(max_steps, optimizer)
    trainer.remove_callback(PrinterCallback)
    started = time.monotonic()
    memory.restart()
    if given.process_index == 0:
        remove_cut_off(progress.folder, progress.marks)  # the Trainer would count them among those to keep
    checkpoint = last_checkpoint(progress.folder, progress.marks)
    with memory.explained(_sizes(params, batches)):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    curve = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    done = trainer.state.global_step
    seen = sum(batches.tokens(position) for position in range(done * together))
    facts = {"updates": done, "loss_curve": curve, "tokens_seen": seen, "peak_memory_bytes": memory.peak_bytes()}
    return {**facts, "seconds_training": round(time.monotonic() - started, 3)}


@contextlib.contextmanager
def _told(params: Any) -> Iterator[None]:
    """What transformers says of arguments that it cannot carry out, as an error of the recipe."""
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        head = "transformers cannot carry out these training arguments"
        raise BuildError(head, [("reason", reason)], "look at the train table") from error


def _decisive(params: Any) -> dict[str, Any]:
    """The parameters that are TrainingArguments of the same name and meaning."""
    given = {name: getattr(params, name) for name in DECISIVE if name not in _OURS and getattr(params, name, None) is not None}
    for old in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):  # transformers warns of its older names
        value = given.pop(old, None)
        if value:
            given[old.replace("gradient", "activation")] = value
    if given.get("activation_checkpointing"):
        given.setdefault("activation_checkpointing_kwargs", {"use_reentrant": False})
    return given


def _steering(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What steers a run; where TensorBoard's files go is told as its callback wants it."""
    if settings.get("logs"):
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(settings["logs"])
    return {name: value for name, value in settings.items() if name not in ("logs", "save_steps", "save_total_limit") and value is not None}


def _sizes(params: Any, batches: Batches) -> list[tuple[str, str]]:
    longest = max((batches.tokens(position) for position in range(min(len(batches), 1000))), default=0)
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "optimizer", "updates", "activation_checkpointing")
    sizes = [(name, str(getattr(params, name))) for name in names if hasattr(params, name)]
    return [*sizes, ("tokens of the largest batch", str(longest))]


class _Trainer(Trainer):
    def __init__(self, loss: Loss, batches: Batches, progress: Progress, **given: Any) -> None:
        super().__init__(**given)
        self._loss, self._batches, self._progress, self._taken = loss, batches, progress, 0
        self.model_accepts_loss_kwargs = False  # the loss is a mean: accumulated gradients are averaged

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        loss = self._loss(model, inputs)
        if not torch.isfinite(loss):
            raise self._not_finite(float(loss))
        return loss

    def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
        found = super().training_step(*given, **named)
        self._taken = self._taken + 1 if self._taken_at == self.state.global_step else 1
        self._taken_at = self.state.global_step
        return found

    _taken_at = -1  # the update that `_taken` batches belong to

    def _not_finite(self, loss: float) -> BuildError:
        update, accumulated = self.state.global_step, self.args.gradient_accumulation_steps
        inside = self._taken if self._taken_at == update else 0
        position = (update * accumulated + inside) * self.args.world_size + self.args.process_index
        numbers = list(self._batches.rows(min(position, len(self._batches) - 1)))
        facts = [("update", f"{update + 1} of {self.args.max_steps}"), ("loss", str(loss))]
        if numbers:
            facts.append(("rows, of those trained on", ", ".join(str(number + 1) for number in numbers)))
        kept = "; the last checkpoint is kept" if last_checkpoint(self._progress.folder, self._progress.marks) else ""
        return BuildError("the loss is not finite", facts, f"look at these rows, lower learning_rate, or add warmup_steps{kept}")

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]  # the batches are in their order already


class _Watch(TrainerCallback):
    """Progress, and checkpoints every few seconds or `save_steps`."""

    def __init__(self, progress: Progress, batches: Batches, updates: int, accumulated: int) -> None:
        self._progress, self._batches, self._updates, self._accumulated = progress, batches, updates, accumulated
        self._every = progress.settings.get("save_steps")
        self._saved = self._begun = time.monotonic()
        self._begun_at = self._tokens = 0
        self._loss = math.nan

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun, self._begun_at = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in (logs or {}):
            self._loss = logs["loss"]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        done, now = state.global_step, time.monotonic()
        self._tokens += sum(self._batches.tokens(done * self._accumulated - back - 1) for back in range(self._accumulated))
        passed = max(1e-9, now - self._begun)
        left = passed / max(1, done - self._begun_at) * (self._updates - done)
        loss = "" if math.isnan(self._loss) else f" · loss {self._loss:.3f}"
        self._progress(
            f"update {done}/{self._updates}{loss} · {self._tokens / passed:.0f} tokens/s · {left:.0f} s left", done / self._updates
        )
        due = done % self._every == 0 if self._every else now - self._saved > SECONDS_BETWEEN_CHECKPOINTS
        if due and done < self._updates and not control.should_training_stop:  # a run that has ended does not go on from here
            control.should_save, self._saved = True, now

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._progress.marks)


def _only_item(items: list[Any]) -> Any:
    return items[0]
