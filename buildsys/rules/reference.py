"""base + rows with two answers -> the base's log-probability of each: what DPO compares with, computed once for every training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from buildsys.progress import Progress
from buildsys.rules import MODELS, Inputs, Rendering

VERSION = 2
ROLES = {"base": "model folder", "rows": "rows with chosen and rejected"}
PRELOAD = (*MODELS, "buildsys.evaluation.score")
FLUSH = False
RENDERS = "base"


class Params(Rendering):
    max_length: Annotated[int, Field(ge=2)] = 1024
    threads: Annotated[int, Field(ge=1)] = 1


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    import torch

    from buildsys.evaluation import score
    from buildsys.examples import encode
    from buildsys.examples.rows import read as read_rows
    from buildsys.tensors import models

    models.deterministic(0, params.threads)
    model = models.load(inputs["base"], torch.float32)  # as it is trained
    tokenizer = encode.load_tokenizer(str(inputs["base"]), params.template_date)
    room = models.context(model, params.max_length)
    rows = read_rows(inputs["rows"])
    progress(f"log-probabilities of {len(rows)} rows")
    found = score.log_probabilities(model, encode.encode(tokenizer, rows, room))
    (out / "reference.json").write_text(json.dumps({side: found[side] for side in ("chosen", "rejected")}))
    return {"rows": len(rows)}
