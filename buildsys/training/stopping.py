"""Early stop: the loss on rows that are held out of training, the best weights so far, and an end when nothing better comes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback

from buildsys.errors import BuildError
from buildsys.training.resuming import resumed_from

_BEST, _STATE = "best.pt", "stopping.json"


class EarlyStopping(TrainerCallback):
    """Ends a run after `patience` evaluations without a better one; `restore` brings the best weights back.

    held_out   (model) -> loss on the held-out rows
    threshold  by how much the loss has to fall to be better
    """

    def __init__(
        self,
        held_out: Callable[[PreTrainedModel], float],
        named: Sequence[tuple[str, torch.nn.Parameter]],
        *,
        every: int,
        patience: int,
        threshold: float,
    ) -> None:
        self._held_out, self._named = held_out, list(named)
        self._every, self._patience, self._threshold = every, patience, threshold
        self.curve: list[tuple[int, float]] = []
        self.best_update, self._best_loss, self._worse = 0, math.inf, 0
        self._best: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        checkpoint = resumed_from(Path(args.output_dir), state.global_step)
        if checkpoint is None:
            self._evaluate(model, 0)
            return
        known = json.loads((checkpoint / _STATE).read_text())
        self.curve = [(int(update), float(loss)) for update, loss in known["curve"]]
        self.best_update, self._best_loss, self._worse = known["best_update"], known["best_loss"], known["worse"]
        self._best = torch.load(checkpoint / _BEST, weights_only=True)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step % self._every == 0 or state.global_step == args.max_steps:
            self._evaluate(model, state.global_step)
            control.should_training_stop = control.should_training_stop or self._worse >= self._patience

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        torch.save(self._best, folder / _BEST)
        known = {"curve": self.curve, "best_update": self.best_update, "best_loss": self._best_loss, "worse": self._worse}
        (folder / _STATE).write_text(json.dumps(known))

    def _evaluate(self, model: PreTrainedModel, update: int) -> None:
        training = model.training
        loss = self._held_out(model.eval())
        model.train(training)
        self.curve.append((update, round(loss, 6)))
        if loss < self._best_loss - self._threshold:
            self._best_loss, self.best_update, self._worse = loss, update, 0
            self._best = {name: parameter.detach().cpu().clone() for name, parameter in self._named}
        else:
            self._worse += 1

    @torch.no_grad()
    def restore(self) -> dict[str, Any]:
        """Bring the best weights back; returns facts. Raises BuildError where no update was better than the start."""
        if self.best_update == 0:
            facts = [(f"update {update}", f"{loss:.4f}") for update, loss in self.curve[:6]]
            raise BuildError("no update lowered the loss on the rows that are held out", facts, "lower learning_rate, or give more rows")
        for name, parameter in self._named:
            parameter.copy_(self._best[name])
        return {"held_out_curve": self.curve, "best_update": self.best_update, "best_held_out_loss": round(self._best_loss, 6)}
