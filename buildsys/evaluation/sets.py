"""A set of rows and what is asked of a model on it: log-probabilities of answers, its own words, a user's judge, tasks of lm-eval."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from buildsys.errors import BuildError
from buildsys.evaluation import generate, harness, score
from buildsys.examples import encode, templates
from buildsys.examples.rows import HELD_OUT_SHARE, Row, bucket, shape
from buildsys.tensors import models

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from buildsys.rules.evaluate import Spec


class EvaluationSet:
    """rows   those to be asked; none for a task of lm-eval, which brings its own
    files  the user's files that `spec.files` names: a judge's source, or a task's folder
    examples  token ids in place of rows, where there are none
    """

    def __init__(self, spec: Spec, rows: Sequence[Row], files: Sequence[Path] = (), examples: Sequence[encode.Example] = ()) -> None:
        self.spec, self.rows, self._files = spec, list(rows), list(files)
        self._examples = list(examples)
        self.facts: dict[str, Any] = {}

    @property
    def half(self) -> list[int]:
        """For each row which half of the set it belongs to: one chooses a coefficient, the other judges it."""
        return [bucket(row) // HELD_OUT_SHARE % 2 for row in self.rows]

    @property
    def expected(self) -> list[str]:
        """The answer that each row itself gives, for metrics that look for it in the model's own words."""
        return [_text(row.get("chosen", row.get("completion", row.get("messages", [])))) for row in self.rows]

    @property
    def shape(self) -> str:
        return shape(self.rows[0]) if self.rows else "task"

    def numbers(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """What the model says to every row, as JSON. Raises BuildError for what is no finite number."""
        templates.set_clock(self.spec.template_date)  # for a user's judge as well, who renders with the tokenizer that it is handed
        if self.spec.kind == "answers":
            room = models.context(model, self.spec.max_length)
            if not self._examples:
                self._examples = encode.encode(tokenizer, self.rows, room)
                self.facts |= encode.cut_facts(self._examples, room)
            return {**score.log_probabilities(model, self._examples), "vocabulary": model.get_output_embeddings().weight.shape[0]}
        if self.spec.kind == "generations":
            wanted = self.spec.generate
            prompts = [generate.prompt_ids(tokenizer, row) for row in self.rows]
            return {"texts": generate.continuations(model, tokenizer, prompts, wanted.max_new_tokens, wanted.temperature, wanted.seed)}
        if self.spec.kind == "judge":
            return {"scores": self._judged(model, tokenizer)}
        assert self.spec.lm_eval is not None
        return harness.scores(model, tokenizer, self.spec.lm_eval, dict(zip(self.spec.files, self._files, strict=True)))

    def _judged(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[float]:
        """What the user's function makes of the model: one number a row, more is better."""
        name = self.spec.judge
        before = _sums(model)
        torch.manual_seed(0)
        try:
            with torch.inference_mode():
                found = self._judge(model, tokenizer, [dict(row) for row in self.rows])
            scores = [float(one) for one in found]
        except BuildError:
            raise
        except (Exception, SystemExit) as error:
            own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self.spec.files[0]]
            where = [("line", f"{own[-1].lineno} of {self.spec.files[0]}")] if own else []
            where = [("line", f"{error.lineno} of {self.spec.files[0]}")] if isinstance(error, SyntaxError) else where
            reason = str(error).strip().splitlines()
            facts = [(type(error).__name__, reason[0] if reason else ""), *where]
            raise BuildError(
                f"judge '{name}' failed", facts, "it takes (model, tokenizer, rows) and returns a number for each row"
            ) from error
        if len(scores) != len(self.rows):
            facts = [("rows", str(len(self.rows))), ("numbers", str(len(scores)))]
            raise BuildError(f"judge '{name}' returned {len(scores)} numbers for {len(self.rows)} rows", facts)
        for row, one in enumerate(scores, 1):
            if not math.isfinite(one):
                raise BuildError(f"judge '{name}' returned {one} for row {row}", hint="a judge gives every row a finite number")
        model.eval()
        if before != _sums(model):
            raise BuildError(f"judge '{name}' changed the model's weights", hint="work on a copy: copy.deepcopy(model)")
        return scores

    @cached_property
    def _judge(self) -> Callable[..., Sequence[float]]:
        module, _, function = self.spec.judge.partition(":")
        made = ModuleType(f"judge_{module.replace('.', '_')}")
        made.__file__ = self.spec.files[0]
        sys.modules[made.__name__] = made  # dataclasses look their own module up
        exec(compile(self._files[0].read_bytes(), self.spec.files[0], "exec"), made.__dict__)
        found: Callable[..., Sequence[float]] | None = getattr(made, function, None)
        if not callable(found):
            raise BuildError(f"judge '{self.spec.judge}' is no function of its file", [("file", self.spec.files[0])])
        return found


def _sums(model: PreTrainedModel) -> list[float]:
    """What tells whether anybody changed the weights."""
    return [float(parameter.detach().sum(dtype=torch.float64)) for parameter in model.parameters()]


def _text(answer: Any) -> str:
    """An answer as text: of messages the last one of the assistant's."""
    if isinstance(answer, str):
        return answer
    return next((str(turn["content"]) for turn in reversed(answer) if turn["role"] == "assistant"), "")
