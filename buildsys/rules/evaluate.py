"""base + vector + rows -> the log-probability of every answer at every coefficient. Measures; judges nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES = {"base": "model folder", "vector": "vector", "rows": "rows"}
PRELOAD = ("torch", "transformers", "buildsys.evaluation.score")
FLUSH = False


class Params(Strict):
    coefficients: list[float]  # growing; 0, the base itself, is always measured as well
    max_length: Annotated[int, Field(ge=2)] = 1024
    threads: Annotated[int, Field(ge=1)] = 1


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.evaluation import score
    from buildsys.examples import encode
    from buildsys.examples.rows import HELD_OUT_SHARE, bucket, shape
    from buildsys.tensors import checkpoints, delta, models, vectors
    from buildsys.training import fit

    fit.deterministic(0, params.threads)
    model = models.load(inputs["base"])
    vector = vectors.Vector(inputs["vector"])
    tokenizer = encode.load_tokenizer(str(inputs["base"]))
    rows = fit.rows(inputs["rows"])
    room = models.context(model, params.max_length)
    examples = encode.encode(tokenizer, rows, room)
    measured: dict[str, Any] = {
        "shape": shape(rows[0]),
        "coefficients": [0.0, *params.coefficients],
        "half": [bucket(row) // HELD_OUT_SHARE % 2 for row in rows],
    }
    runs = []
    names = delta.stored_names(model, checkpoints.Checkpoint(inputs["base"]).entries)
    with delta.applied(model, names, vector) as apply:
        for position, coefficient in enumerate(measured["coefficients"]):
            progress(f"coefficient {coefficient:g}", position / len(measured["coefficients"]))
            apply(coefficient)
            runs.append(score.log_probabilities(model, examples))
    measured |= {name: [run[name] for run in runs] for name in ("chosen", "rejected") if name in runs[0]}
    measured |= {name: runs[0][name] for name in ("chosen_tokens", "rejected_tokens") if name in runs[0]}
    (out / "evaluation.json").write_text(json.dumps(measured))
    return {"n": len(rows), **encode.cut_facts(examples, room)}
