"""A model under evaluation: a base, at some coefficient of a vector. Loaded once, when first needed; a coefficient is added in place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from buildsys.examples import encode
from buildsys.tensors import checkpoints, delta, models, vectors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Loaded:
    """The model and the tokenizer of a folder, loaded when first needed: what is known already needs neither."""

    def __init__(self, base: Path) -> None:
        self.base = base

    @cached_property
    def model(self) -> PreTrainedModel:
        return models.load(self.base)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return encode.load_tokenizer(str(self.base))


class Subject(Loaded):
    """base  model folder; vector: folder of a vector, None for the model alone."""

    def __init__(self, base: Path, vector: Path | None) -> None:
        super().__init__(base)
        self._vector = vector
        self._open = ExitStack()

    @cached_property
    def _apply(self) -> Callable[[Any], None]:
        assert self._vector is not None
        names = delta.stored_names(self.model, checkpoints.Checkpoint(self.base).entries)
        return self._open.enter_context(delta.applied(self.model, names, vectors.Vector(self._vector)))

    def at(self, coefficient: Any) -> PreTrainedModel:
        """The model at a coefficient of its vector: a number, a list over depth, or a table of patterns. 0 is the base."""
        if self._vector is not None:
            self._apply(coefficient)
        return self.model

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()
