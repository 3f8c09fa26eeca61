"""A moving average of the weights over the later part of a run: it generalises better than where the run happens to end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from buildsys.training.resuming import resumed_from

_AVERAGE = "average.pt"


class Averaging(TrainerCallback):
    """average ← decay · average + (1 − decay) · weights after each update, from the first third of the run on (Polyak & Juditsky 1992)."""

    def __init__(self, named: Sequence[tuple[str, torch.nn.Parameter]], decay: float) -> None:
        self._named, self._decay = list(named), decay
        self._average: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = resumed_from(Path(args.output_dir), state.global_step)
        if checkpoint is not None:
            self._average = torch.load(checkpoint / _AVERAGE, weights_only=True, map_location=self._named[0][1].device)

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step < -(-args.max_steps // 3):
            return
        for name, parameter in self._named:
            if name in self._average:
                self._average[name].lerp_(parameter.float(), 1 - self._decay)
            else:
                self._average[name] = parameter.detach().float().clone()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        torch.save(self._average, Path(args.output_dir) / f"checkpoint-{state.global_step}" / _AVERAGE)

    @torch.no_grad()
    def restore(self) -> dict[str, Any]:
        """Bring the average in; returns no facts."""
        for name, parameter in self._named:
            parameter.copy_(self._average[name])
        return {}
