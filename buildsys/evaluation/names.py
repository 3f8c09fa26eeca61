"""The metrics by name: what is asked of a model for each, and which way is better. Imports nothing heavy: plans read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

MetricName = Literal["preference", "loss", "perplexity", "contains", "regex", "judge", "lm_eval"]
Kind = Literal["answers", "generations", "judge", "lm_eval"]

KINDS: Mapping[str, Kind] = {
    "preference": "answers", "loss": "answers", "perplexity": "answers", "contains": "generations", "regex": "generations",
    "judge": "judge", "lm_eval": "lm_eval",
}  # fmt: skip
SHARES = ("preference", "contains", "regex")
FEWEST_ROWS = 5  # of each half of a set: below, no interval means anything
FALLING = ("loss", "perplexity")  # less is better: gains and losses are relative
