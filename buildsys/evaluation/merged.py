"""A merge in memory: a base's model, set to what a recipe makes of its vectors at any coefficients. Writes no file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from buildsys.errors import BuildError
from buildsys.evaluation.subject import Loaded
from buildsys.merging.coefficients import Coefficient, numbers
from buildsys.merging.options import completed
from buildsys.merging.stream import Merge, Recipe, evaluated
from buildsys.tensors import delta

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MergedSubject(Loaded):
    """base, vectors  folders; digests: what names each vector for ever
    recipe         its coefficients are replaced by those that `at` is given
    """

    def __init__(self, base: Path, vectors: Sequence[Path], digests: Sequence[str], recipe: Recipe) -> None:
        if recipe.tokenizer == "union":
            raise BuildError('a merge with tokenizer = "union" has other shapes than its base', hint="it cannot be evaluated in memory")
        super().__init__(base)
        self._vectors, self._digests, self._recipe = list(vectors), list(digests), recipe

    @cached_property
    def _weights(self) -> dict[str, torch.Tensor]:
        return delta.weights(self.model)

    def at(self, coefficients: Sequence[Coefficient]) -> PreTrainedModel:
        """The model that the recipe makes with these coefficients, rounded as a merge on disk would be. A vector at 0 takes no part."""
        own = [at for at, one in enumerate(coefficients) if any(numbers(one))]
        return self._made(replace(self._recipe, coefficients=[coefficients[at] for at in own]), own)

    def alone(self, position: int, coefficient: Coefficient) -> PreTrainedModel:
        """The base with one vector added as it is, whatever the recipe's method would make of it."""
        return self._made(Recipe("task_arithmetic", completed("task_arithmetic", {})[0], [coefficient]), [position])

    def _made(self, recipe: Recipe, own: Sequence[int]) -> PreTrainedModel:
        vectors, digests = [self._vectors[at] for at in own], [self._digests[at] for at in own]
        work = Merge(self.base, vectors, digests, recipe, torch.get_num_threads())
        try:
            names = delta.stored_names(self.model, work.base.entries)
            before = self._weights
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    deltas = work.deltas(names[name]) if own else None
                    if deltas is None or not deltas.count:
                        parameter.copy_(before[name])
                    else:
                        tau = torch.from_numpy(evaluated(deltas, work.rule(deltas)))
                        parameter.copy_(delta.added(before[name], tau, 1.0))
        finally:
            work.close()
        return self.model

    def __enter__(self) -> MergedSubject:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.__dict__.pop("model", None)
