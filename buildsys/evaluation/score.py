"""model + examples -> the log-probability of every answer, batched by length. Knows no gate and no coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from buildsys.errors import BuildError
from buildsys.examples.encode import Answer, Example, batch
from buildsys.training.objectives import answer_log_probabilities

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS_PER_BATCH = 4096  # padded; fixed, because the last bits of a sum depend on the shape it is taken in


def log_probabilities(model: PreTrainedModel, examples: Sequence[Example]) -> dict[str, list[float]]:
    """Sums of log-probabilities in nats and token counts of every answer, in the order of the examples.

    Keys: `chosen`, `chosen_tokens`, and where the examples have one, `rejected`, `rejected_tokens`.
    Raises BuildError where a result is not finite.
    """
    found = dict(zip(("chosen", "chosen_tokens"), _scores(model, [example.chosen for example in examples]), strict=True))
    rejected = [example.rejected for example in examples if example.rejected is not None]
    if rejected:
        found |= dict(zip(("rejected", "rejected_tokens"), _scores(model, rejected), strict=True))
    return found


def _scores(model: PreTrainedModel, answers: Sequence[Answer]) -> tuple[list[float], list[float]]:
    sums, counts = torch.zeros(len(answers)), torch.zeros(len(answers))
    for rows in _by_length(answers):
        given = {name: tensor.to(model.device) for name, tensor in batch([answers[row] for row in rows]).items()}
        with torch.inference_mode():
            logits = model(input_ids=given["input_ids"], use_cache=False).logits
            row_sums, row_counts = answer_log_probabilities(logits, given["labels"])
        sums[rows], counts[rows] = row_sums.cpu(), row_counts.cpu()
    if not torch.isfinite(sums).all():
        row = int((~torch.isfinite(sums)).nonzero()[0])
        raise BuildError("a log-probability is not finite", [("row", str(row + 1)), ("found", str(float(sums[row])))])
    return sums.tolist(), counts.tolist()


def _by_length(answers: Sequence[Answer]) -> list[list[int]]:
    """Row numbers in batches of like length, none with more padded tokens than allowed unless it is one row."""
    found: list[list[int]] = []
    for row in sorted(range(len(answers)), key=lambda row: -len(answers[row].ids)):
        if found and (len(found[-1]) + 1) * len(answers[found[-1][0]].ids) <= TOKENS_PER_BATCH:
            found[-1].append(row)
        else:
            found.append([row])
    return found
