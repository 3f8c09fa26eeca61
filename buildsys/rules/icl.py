"""base + a few examples -> a task vector without any training: what the examples do in the context, as weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from buildsys.progress import Progress
from buildsys.rules import MODELS, Inputs, Rendering

VERSION = 1
ROLES = {"base": "model folder", "examples": "rows"}
PRELOAD = (*MODELS, "buildsys.training.bridge")
FLUSH = False
RENDERS = "base"

Count = Annotated[int, Field(ge=1)]


class Settings(Rendering):
    """What a Buildfile may say of it."""

    shots: Annotated[int, Field(ge=3)] = 5  # examples of one context; those after the second are what is asked
    contexts: Count = 2
    max_length: Annotated[int, Field(ge=2)] = 1024  # tokens of one context, at most the model's own
    dtype: Literal["float32", "bfloat16"] | None = None  # of τ; None: the base's own
    threads: Count = 1


class Params(Settings):
    seed: int = 0


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    import torch

    from buildsys.errors import BuildError
    from buildsys.examples import encode
    from buildsys.examples.rows import read as read_rows
    from buildsys.rules.train import WarmStart
    from buildsys.tensors import checkpoints, delta, models
    from buildsys.training import bridge

    models.deterministic(params.seed, params.threads)
    model = models.load(inputs["base"], torch.float32)
    base = checkpoints.Checkpoint(inputs["base"])
    names, before = delta.stored_names(model, base.entries), delta.weights(model)
    tokenizer = encode.load_tokenizer(str(inputs["base"]), params.template_date)
    progress("examples in the context")
    given = WarmStart(shots=params.shots, contexts=params.contexts)
    found = bridge.jump(model, tokenizer, read_rows(inputs["examples"]), given, models.context(model, params.max_length), params.seed)
    if found.cold_because:
        facts = [(name.replace("_", " "), f"{loss:.4f}") for name, loss in found.losses.items()]
        raise BuildError(f"no vector comes of these examples: {found.cold_because}", facts, "train it, or take other examples or shots")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in found.deltas:
                parameter.add_(found.deltas[name])
    norm = delta.save(model, before, names, params.dtype or checkpoints.delta_dtype(base), out / "vector.safetensors")
    told = {name: value for name, value in found.facts(1).items() if name != "cost_in_updates"}
    return {**told, "tokens": found.tokens, "tau_norm": norm}
