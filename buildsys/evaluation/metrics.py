"""Recorded answers -> a metric: what each row contributes to it. A changed pattern asks no model again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from buildsys import deadline, strict
from buildsys.errors import BuildError
from buildsys.evaluation.intervals import Ratio
from buildsys.evaluation.names import FALLING, MetricName

_PATTERN_SECONDS = 10
Evaluation = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """texts  of `contains`, any of which counts; none: the row's own answer; pattern: of `regex`"""

    name: MetricName
    texts: Sequence[str] = ()
    pattern: str = ""

    def of(self, evaluation: Evaluation, position: int) -> Ratio:
        """The metric at one coefficient, as a ratio over the rows; of `perplexity` its logarithm, the loss.

        preference  share of rows whose chosen answer has the higher mean log-probability
        loss        nats per token of the answers
        contains    share of rows in whose continuation a text stands, whatever its case
        regex       share of rows in whose continuation the pattern is found
        judge, lm_eval  mean of the numbers

        Raises BuildError where the rows have no answer that the metric could compare.
        """
        numbers = evaluation["numbers"][position]
        if self.name == "preference":
            return Ratio.of([float(margin > 0) for margin in margins(evaluation, position)], share=True)
        if self.name in FALLING:
            return Ratio.of([-one for one in numbers["chosen"]], numbers["chosen_tokens"])
        if self.name == "contains":
            wanted = [[text.lower() for text in self.texts or [own]] for own in evaluation["expected"]]
            found = [any(text in said.lower() for text in texts) for said, texts in zip(numbers["texts"], wanted, strict=True)]
            return Ratio.of([float(one) for one in found], share=True)
        if self.name == "regex":
            return Ratio.of([float(_matches(self.pattern, said)) for said in numbers["texts"]], share=True)
        return Ratio.of(numbers["scores"])


def _matches(pattern: str, text: str) -> bool:
    """True where the pattern is found. Raises BuildError for one that goes through the text in ever new ways, and would not end."""
    try:
        with deadline.within(_PATTERN_SECONDS):
            return re.search(pattern, text) is not None
    except deadline.Expired as error:
        facts = [("regex", strict.shortened(pattern, 80)), ("text", f"{len(text):,} characters")]
        hint = "a repetition of a repetition, as in (a+)+, can be written without one of them"
        raise BuildError(f"the regex takes more than {_PATTERN_SECONDS} seconds for a row", facts, hint) from error


def margins(evaluation: Evaluation, position: int) -> list[float]:
    """Mean log-probability of a token of the chosen answer, less that of the rejected one: nats, one for each row."""
    numbers = evaluation["numbers"][position]
    if "rejected" not in numbers:
        raise BuildError("metric 'preference' needs rows with 'rejected'", hint='metric = "loss" judges answers alone')
    return [
        chosen / max(1.0, count) - rejected / max(1.0, other)
        for chosen, count, rejected, other in zip(
            numbers["chosen"], numbers["chosen_tokens"], numbers["rejected"], numbers["rejected_tokens"], strict=True
        )
    ]
