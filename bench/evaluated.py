"""A model on several sets of rows: preference, or the loss of a control set."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from buildsys.evaluation import score
from buildsys.evaluation.metrics import Metric
from buildsys.examples import encode
from buildsys.tensors import models


def evaluated(folder: Path, sets: Mapping[str, Path], controls: Collection[str], max_length: int) -> dict[str, float]:
    """Set -> share of rows whose chosen answer is preferred; for control sets the answer loss."""
    model, tokenizer = models.load(folder), encode.load_tokenizer(str(folder))
    found = {}
    for name, path in sets.items():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        run = score.log_probabilities(model, encode.encode(tokenizer, rows, max_length))
        measured = {"numbers": [run]}
        found[name] = Metric("loss" if name in controls else "preference").of(measured, 0).value
    return found
