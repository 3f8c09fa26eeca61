"""Examples -> all batches of a run in their order, a function of the rows, the seed and the strategy alone. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from buildsys.errors import BuildError
from buildsys.examples.encode import Answer, Example, batch
from buildsys.training.updates import random_key

if TYPE_CHECKING:
    from buildsys.rules.train import Params
    from buildsys.training.objectives import Batch

_SPARED = 4  # tokens of a prompt that stay when it is cropped
_MEGABATCH = 50  # batches that are sorted by length together, as transformers does


def updates(params: Params, rows: int) -> int:
    """How long a run is: max_steps, or as many updates as the epochs have."""
    if params.num_train_epochs is None:
        return params.max_steps or 60
    one = params.per_device_train_batch_size * params.gradient_accumulation_steps * params.processes
    return max(1, round(params.num_train_epochs * rows / one))


class BehaviourBatches(Dataset[Any]):
    """The batches of a whole run, by position.

    keep       pools of what must stay: a batch takes as many of each
    reference  the base's log-probability of each example's chosen and rejected answer; objective "dpo"
    """

    def __init__(
        self, examples: Sequence[Example], keep: Sequence[Sequence[Example]], number: int, params: Params,
        reference: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:  # fmt: skip
        size = params.per_device_train_batch_size
        self._examples, self._pairs = examples, params.objective != "sft"
        self._reference = [torch.tensor(side) for side in reference] if reference else None
        if self._pairs and any(example.rejected is None for example in examples):
            text = f"objective '{params.objective}' needs rows with 'rejected'"
            raise BuildError(text, hint='objective = "sft" trains on answers alone')
        self._seed = params.seed if params.data_seed is None else params.data_seed
        self._crop = params.crop_prompts
        self._order = _arranged(examples, number * size, size, params.train_sampling_strategy, self._seed).split(size)
        self._keep, self._window = [pool for pool in keep if pool], params.keep_window
        sizes = _shared(params.keep_batch_size or size, len(self._keep))
        self._keep_order = [
            order(len(pool), number * share, self._seed + 1 + place).split(share)
            for place, (pool, share) in enumerate(zip(self._keep, sizes, strict=True))
        ]

    def __len__(self) -> int:
        return len(self._order)

    def rows(self, position: int) -> list[int]:
        found: list[int] = self._order[position].tolist()
        return found

    def tokens(self, position: int) -> int:
        return sum(len(answer.ids) for answer in [*self._answers(position), *self._kept(position)])

    def __getitem__(self, position: int) -> Batch:
        given: Batch = {"answers": batch(self._answers(position))}
        if self._reference is not None:
            given["answers"]["reference"] = torch.cat([side[self._order[position]] for side in self._reference])
        if self._keep:
            given["keep"] = batch(self._kept(position)) | {"shares": self._shares(position)}
        return given

    def _shares(self, position: int) -> torch.Tensor:
        """(rows,) what a token of each kept row counts: every pool as much as the others, whatever its rows' length."""
        answers, sizes = iter(self._kept(position)), [len(chosen[position]) for chosen in self._keep_order]
        pools = [[sum(next(answers).scored) for _ in range(size)] for size in sizes]
        return torch.tensor([1 / max(1, len(pools) * sum(tokens)) for tokens in pools for _ in tokens])

    def _answers(self, position: int) -> list[Answer]:
        rows = [self._examples[row] for row in self.rows(position)]
        if self._crop:
            drawn = torch.rand(len(rows), 2, generator=self._generator(position, 0)).tolist()
            rows = [cropped(row, self._crop, own) for row, own in zip(rows, drawn, strict=True)]
        return [row.chosen for row in rows] + [row.rejected for row in rows if self._pairs and row.rejected]

    def _kept(self, position: int) -> list[Answer]:
        pools = zip(self._keep, self._keep_order, strict=True)
        answers = [pool[row].chosen for pool, chosen in pools for row in chosen[position].tolist()]
        if self._window is None:
            return answers
        drawn = torch.rand(len(answers), 2, generator=self._generator(position, 1)).tolist()
        return [windowed(answer, self._window, own) for answer, own in zip(answers, drawn, strict=True)]

    def _generator(self, position: int, purpose: int) -> torch.Generator:
        """Of what is drawn for one batch: a resumed run draws the same."""
        return torch.Generator().manual_seed(random_key(self._seed, position, purpose) >> 1)


def windowed(whole: Answer, length: int, drawn: Sequence[float]) -> Answer:
    """`length` tokens of a sequence: in one case of two the first ones, else from a random place on.

    drawn  two numbers in [0, 1)
    """
    start = int(drawn[1] * max(1, len(whole.ids) - length + 1)) if drawn[0] < 0.5 else 0
    ids, scored = whole.ids[start : start + length], whole.scored[start : start + length]
    return Answer(ids, [mark and position > 0 for position, mark in enumerate(scored)], whole.cut)


def _shared(size: int, pools: int) -> list[int]:
    """A batch of what must stay, in parts as equal as can be, none empty."""
    return [max(1, size // pools + (place < size % pools)) for place in range(pools)]


def cropped(row: Example, share: float, drawn: Sequence[float]) -> Example:
    """The row, or with the probability `share` the same without a random number of its first tokens; answers stay whole.

    drawn  two numbers in [0, 1)
    """
    sides = [row.chosen, row.rejected] if row.rejected else [row.chosen]
    start = min(one.scored.index(True) if True in one.scored else 0 for one in sides)
    dropped = int(drawn[1] * max(1, start - _SPARED + 1)) if drawn[0] < share else 0
    short = [Answer(one.ids[dropped:], one.scored[dropped:], one.cut) for one in sides]
    return Example(short[0], short[1] if row.rejected else None)


def _arranged(examples: Sequence[Example], wanted: int, size: int, strategy: str, seed: int) -> torch.Tensor:
    """(wanted,) row numbers: every row once before any row twice."""
    if strategy == "sequential":
        return torch.arange(wanted) % len(examples)
    found = order(len(examples), wanted, seed)
    if strategy == "random":
        return found
    lengths = torch.tensor([len(example.chosen.ids) for example in examples])
    generator = torch.Generator().manual_seed(seed)
    arranged = []
    for rows in found.split(len(examples)):  # every pass by itself: it has each row once
        for part in rows.split(size * _MEGABATCH):
            parts = list(part[lengths[part].argsort(descending=True, stable=True)].split(size))
            last = [parts.pop()] if len(parts[-1]) < size else []  # batches of like length, in random order
            arranged += [parts[i] for i in torch.randperm(len(parts), generator=generator).tolist()] + last
    return torch.cat(arranged)


def order(rows: int, wanted: int, seed: int) -> torch.Tensor:
    """(wanted,) row numbers: one random permutation after another."""
    generator = torch.Generator().manual_seed(seed)
    passes = [torch.randperm(rows, generator=generator) for _ in range(-(-wanted // rows))]
    return torch.cat(passes)[:wanted]
