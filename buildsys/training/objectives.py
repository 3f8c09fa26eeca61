"""What a behaviour is trained towards: answers (`sft`), more than rejected ones (`preference`, `dpo`), and what must stay."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from buildsys.examples.encode import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from buildsys.rules.train import Params

Batch = dict[str, dict[str, torch.Tensor]]
Model = Callable[..., Any]  # of transformers' arguments


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


def dpo(chosen: torch.Tensor, rejected: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Mean of −log σ(β·((log π − log π_ref)(chosen) − (log π − log π_ref)(rejected))). Rafailov et al. 2023, equation 7.

    chosen, rejected  (rows,) sums of log-probabilities in nats; reference (2 · rows,) the base's of both, chosen first
    """
    base_chosen, base_rejected = reference.chunk(2)
    return -functional.logsigmoid(beta * ((chosen - base_chosen) - (rejected - base_rejected))).mean()


class Behaviour:
    """The loss of a behaviour on one batch.

    sft         mean cross-entropy of the answer's tokens
    preference  mean over rows of max(0, margin − (mean log-probability of chosen − of rejected))
    dpo         as above; the base's log-probabilities come with the batch
    rpo_alpha   + rpo_alpha · mean cross-entropy of the chosen answer's tokens, to the last two (Pang et al. 2024; TRL's name)
    keep        + weight · mean over tokens of KL(base ‖ model), on rows that must not change; each pool of rows counts as much
    mirror      + all of it at base − τ, with chosen and rejected exchanged
    """

    def __init__(self, params: Params, model: PreTrainedModel, keeps: bool) -> None:
        self.params, self._keeps = params, keeps
        self._base = copy.deepcopy(model).requires_grad_(False).eval() if keeps or params.mirror else None

    def __call__(self, model: PreTrainedModel, given: Batch) -> torch.Tensor:
        mirrored = self._mirrored(model) if self.params.mirror else None
        loss = self._wanted(model, mirrored, given["answers"])
        for one in (model, mirrored) if self._keeps else ():
            loss = loss if one is None else loss + self.params.keep_weight * self._drift(one, given["keep"])
        return loss

    def wanted(self, model: PreTrainedModel, answers: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss without what must stay."""
        return self._wanted(model, self._mirrored(model) if self.params.mirror else None, answers)

    def _wanted(self, model: Model, mirrored: Model | None, answers: dict[str, torch.Tensor]) -> torch.Tensor:
        loss = self._towards(model, answers)
        if mirrored is None:
            return loss
        return loss + self._towards(mirrored, {name: torch.cat(tensor.chunk(2)[::-1]) for name, tensor in answers.items()})

    def _mirrored(self, model: PreTrainedModel) -> Model:
        """The model at base − τ, with gradients to the weights of the one at base + τ."""
        assert self._base is not None
        each = zip(model.named_parameters(), self._base.parameters(), strict=True)
        weights = {name: 2 * base - now for (name, now), base in each if now.requires_grad}
        return lambda **given: torch.func.functional_call(model, weights, (), given)

    def _towards(self, model: Model, answers: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = model(input_ids=answers["input_ids"], use_cache=False).logits
        if self.params.objective == "sft" and self.params.label_smoothing_factor:
            flat, labels = logits[:, :-1].flatten(0, 1).float(), answers["labels"][:, 1:].flatten()
            return functional.cross_entropy(flat, labels, ignore_index=IGNORED, label_smoothing=self.params.label_smoothing_factor)
        sums, counts = answer_log_probabilities(logits, answers["labels"])
        if self.params.objective == "sft":
            return -sums.sum() / counts.sum().clamp(min=1)
        of_chosen, of_rejected = sums.chunk(2)
        if self.params.objective == "dpo":
            loss = dpo(of_chosen, of_rejected, answers["reference"], self.params.beta)
        else:
            chosen, rejected = (sums / counts.clamp(min=1)).chunk(2)
            loss = functional.relu(self.params.margin - (chosen - rejected)).mean()
        if self.params.rpo_alpha:
            loss = loss - self.params.rpo_alpha * of_chosen.sum() / counts.chunk(2)[0].sum().clamp(min=1)
        return loss

    def _drift(self, model: Model, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        assert self._base is not None
        seen = {"input_ids": rows["input_ids"], "use_cache": False}
        with torch.no_grad():
            base = self._base(**seen).logits[:, :-1].float().log_softmax(-1)
        now = model(**seen).logits[:, :-1].float().log_softmax(-1)
        scored = rows["labels"][:, 1:] != IGNORED
        drift = functional.kl_div(now, base, reduction="none", log_target=True).sum(-1).where(scored, 0.0)
        return (drift.sum(1) * rows["shares"]).sum()
