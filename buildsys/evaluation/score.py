"""model + examples -> the log-probability of every answer, batched by length. Knows no gate and no coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from buildsys.errors import BuildError
from buildsys.examples.encode import IGNORED, Answer, Example, batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS_PER_BATCH = 1024  # padded; fixed, because the last bits of a sum depend on the shape it is taken in


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
            labels = given["labels"][:, 1:]
            marks = labels != IGNORED  # a large vocabulary is normalised for these tokens only
            found = -functional.cross_entropy(logits[:, :-1][marks].float(), labels[marks], reduction="none")
            row_sums = torch.zeros(len(rows), device=found.device).index_add_(0, marks.nonzero()[:, 0], found)
        sums[rows], counts[rows] = row_sums.cpu(), marks.sum(1).float().cpu()
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
