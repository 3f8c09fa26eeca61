"""base -> sequences drawn from the model itself: what it knows, without data, for a training that must not forget it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from buildsys.progress import Progress
from buildsys.rules import MODELS, Inputs, Strict

VERSION = 1
ROLES = {"base": "model folder"}
PRELOAD = (*MODELS, "buildsys.evaluation.generate")
FLUSH = True
FILE = "samples.json"

Count = Annotated[int, Field(ge=1)]


class Params(Strict):
    number: Count
    length: Annotated[int, Field(ge=2)]  # tokens of each, at most the model's own context
    seed: int = 0
    threads: Count = 1


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.evaluation import generate
    from buildsys.examples import encode
    from buildsys.tensors import models

    models.deterministic(params.seed, params.threads)
    model = models.load(inputs["base"])
    tokenizer = encode.load_tokenizer(str(inputs["base"]))
    length = models.context(model, params.length)
    found = generate.sampled(model, tokenizer, params.number, length, params.seed, progress)
    (out / FILE).write_text(json.dumps(found))
    return {"sequences": len(found), "tokens": sum(map(len, found))}
