"""What a behaviour is trained towards: answers (`sft`), the margin over rejected ones (`preference`), and what must stay."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn import functional
from torch.utils.data import Dataset

from buildsys.errors import BuildError
from buildsys.examples.encode import IGNORED, Example, batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from buildsys.rules.train import Params

Batch = dict[str, dict[str, torch.Tensor]]


def next_token(model: PreTrainedModel, given: Batch) -> torch.Tensor:
    """Mean cross-entropy in nats of every token but the first."""
    ids = given["blocks"]["input_ids"]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def answer_log_probabilities(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of log-probabilities in nats, number of tokens) of each row's answer.

    logits  (rows, length, vocabulary); labels (rows, length), IGNORED outside the answer
    Returns two (rows,) float32 tensors; a row without an answer token has 0 and 0.
    """
    labels = labels[:, 1:]
    losses = functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    return -losses.sum(1), (labels != IGNORED).sum(1).float()


class Behaviour:
    """The loss of a behaviour on one batch.

    sft         mean cross-entropy of the answer's tokens
    preference  mean over rows of max(0, margin − (mean log-probability of chosen − of rejected))
    keep        + weight · mean over tokens of KL(base ‖ model), on rows that must not change
    """

    def __init__(self, objective: Literal["sft", "preference"], margin: float, model: PreTrainedModel, keeps: bool, weight: float) -> None:
        self.objective, self.margin, self.weight = objective, margin, weight
        self._base = copy.deepcopy(model).requires_grad_(False).eval() if keeps else None

    def __call__(self, model: PreTrainedModel, given: Batch) -> torch.Tensor:
        answers = given["answers"]
        logits = model(input_ids=answers["input_ids"], use_cache=False).logits
        sums, counts = answer_log_probabilities(logits, answers["labels"])
        if self.objective == "sft":
            loss = -sums.sum() / counts.sum().clamp(min=1)
        else:
            means = sums / counts.clamp(min=1)
            chosen, rejected = means.chunk(2)
            loss = functional.relu(self.margin - (chosen - rejected)).mean()
        if self._base is not None:
            loss = loss + self.weight * self._drift(model, given["keep"])
        return loss

    def _drift(self, model: PreTrainedModel, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        assert self._base is not None
        seen = {"input_ids": rows["input_ids"], "use_cache": False}
        with torch.no_grad():
            base = self._base(**seen).logits[:, :-1].float().log_softmax(-1)
        now = model(**seen).logits[:, :-1].float().log_softmax(-1)
        scored = rows["labels"][:, 1:] != IGNORED
        return functional.kl_div(now, base, reduction="none", log_target=True).sum(-1)[scored].mean()


class _Batches(Dataset[Batch]):
    """The batches of a whole run, by position: a resumed run reads on where the killed one stopped."""

    def __init__(self, examples: Sequence[Example], keep: Sequence[Example], number: int, params: Params) -> None:
        size = params.per_device_train_batch_size
        self._examples, self._keep, self._preference = examples, keep, params.objective == "preference"
        self._order = order(len(examples), number * size, params.seed).split(size)
        self._keep_order = order(len(keep), number * size, params.seed + 1).split(size) if keep else ()

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> Batch:
        rows = [self._examples[i] for i in self._order[position].tolist()]
        answers = [row.chosen for row in rows]
        if self._preference:
            answers += [row.rejected for row in rows if row.rejected]
        given: Batch = {"answers": batch(answers)}
        if self._keep_order:
            given["keep"] = batch([self._keep[i].chosen for i in self._keep_order[position].tolist()])
        return given


def batches(examples: Sequence[Example], keep: Sequence[Example], number: int, params: Params) -> Dataset[Any]:
    """`number` batches, every row once before any row twice. Raises BuildError where the rows do not fit the objective."""
    if params.objective == "preference" and any(example.rejected is None for example in examples):
        raise BuildError("objective 'preference' needs rows with 'rejected'", hint='objective = "sft" trains on answers alone')
    return _Batches(examples, keep, number, params)


def order(rows: int, wanted: int, seed: int) -> torch.Tensor:
    """(wanted,) row numbers: one random permutation after another."""
    generator = torch.Generator().manual_seed(seed)
    passes = [torch.randperm(rows, generator=generator) for _ in range(-(-wanted // rows))]
    return torch.cat(passes)[:wanted]
