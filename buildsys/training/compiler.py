"""One behaviour from its examples to its task vector: what is loaded, held out, begun from, trained and taken as τ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from buildsys.errors import BuildError
from buildsys.examples import encode
from buildsys.examples.encode import Answer, Example
from buildsys.examples.rows import HELD_OUT_SHARE, Row, bucket
from buildsys.examples.rows import read as read_rows
from buildsys.progress import Progress
from buildsys.tensors import checkpoints, delta, models
from buildsys.training import bridge, fit, lowrank, optimizers
from buildsys.training.apollo import Apollo
from buildsys.training.averaging import Averaging
from buildsys.training.batching import BehaviourBatches, updates
from buildsys.training.bridge import Jump
from buildsys.training.objectives import Behaviour
from buildsys.training.stopping import EarlyStopping
from buildsys.training.warming import cosine, warmed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

    from buildsys.examples.encode import Tokenizer
    from buildsys.rules.train import Params

_STOPPING_SHARE = 8  # one training row in eight is held out for early stopping


def compiled(paths: Mapping[str, Any], params: Params, out: Path | None, progress: Progress) -> dict[str, Any]:
    """Write τ to `out` (None: another process does) and return facts.

    paths  base, examples, and where the recipe asks for them keep, samples and reference
    """
    model = models.load(paths["base"], getattr(torch, params.weights_dtype))
    base = checkpoints.Checkpoint(paths["base"])
    names, before = delta.stored_names(model, base.entries), delta.weights(model)
    models.freeze(model, embeddings=not params.train_embeddings)
    tokenizer = encode.load_tokenizer(str(paths["base"]), params.template_date)
    room = models.context(model, params.max_length)
    rows = read_rows(paths["examples"])
    examples = answered(encode.encode(tokenizer, rows, room), room)
    keep = _kept(paths, params, tokenizer, model)
    trained, stopping = _held_out(rows, params)
    reference = json.loads((paths["reference"] / "reference.json").read_text()) if "reference" in paths else None

    loss = Behaviour(params, model, any(keep))
    factors = lowrank.Factors(model, params.lora.r, params.lora.lora_alpha, params.seed) if params.lora else None
    named = factors.named if factors else [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = optimizers.make(params, named)
    start: Jump | None = None
    callbacks: list[TrainerCallback] = []
    if params.warm_start is not None:
        progress("examples in the context")
        start = bridge.jump(model, tokenizer, [rows[i] for i in trained], params.warm_start, room, params.seed)
        callbacks += warmed(params, start, model, optimizer)
    if params.updates == "fused":
        assert isinstance(optimizer, Apollo)
        optimizer.fuse()
    number = updates(params, len(trained))
    total = number * params.gradient_accumulation_steps * params.processes
    batches = BehaviourBatches([examples[i] for i in trained], keep, total, params, _part(reference, trained))
    choice: EarlyStopping | Averaging | None = None  # of the weights that τ comes from, where they are not the last ones
    if stopping:
        choice = _early_stop(params, loss, [examples[i] for i in stopping], _part(reference, stopping), named)
    elif params.ema_decay is not None:
        choice = Averaging(named, params.ema_decay)
    facts = fit.fit(model, batches, loss, params, number, optimizer, progress, [*callbacks, *([choice] if choice else [])])

    facts["optimizer_state_bytes"] = optimizers.state_bytes(optimizer)
    if params.weights_dtype != "float32":
        model.float()  # averages and products have more bits than the weights had
    if choice:
        facts |= choice.restore()
    if start is not None:
        facts["warm_start"] = start.facts(batches.tokens(0)) | ({"cosine_with_tau": cosine(start, model, before)} if start.deltas else {})
    if factors:
        factors.expand(model)
    if out is not None:
        dtype = params.dtype or checkpoints.delta_dtype(base)
        facts["tau_norm"] = delta.save(model, before, names, dtype, out / "vector.safetensors")
    return {**facts, **encode.cut_facts(examples, room)}


def _kept(paths: Mapping[str, Any], params: Params, tokenizer: Tokenizer, model: PreTrainedModel) -> list[list[Example]]:
    """The pools of what must stay: rows, and the base's own sequences, every token of them marked."""
    room = models.context(model, params.max_length)
    rows = encode.whole(tokenizer, [row for place in paths.get("keep", ()) for row in read_rows(place)], room)
    if "samples" not in paths:
        return [rows]
    room = room if params.keep_window is None else models.context(model, 1 << 30)
    drawn = [ids[:room] for ids in json.loads((paths["samples"] / "samples.json").read_text()) if len(ids) > 1]
    return [rows, [Example(Answer(ids, [position > 0 for position in range(len(ids))], 0), None) for ids in drawn]]


def answered(examples: Sequence[Example], room: int) -> list[Example]:
    """The examples. Raises BuildError where a row has no token of an answer that could be trained on."""
    masked = [i + 1 for i, one in enumerate(examples) if not any(one.chosen.scored) or (one.rejected and not any(one.rejected.scored))]
    if masked:
        shown = ", ".join(map(str, masked[:10])) + (f" and {len(masked) - 10} more" if len(masked) > 10 else "")
        facts = [("rows", f"{shown} of {len(examples)}"), ("max_length", str(room))]
        raise BuildError("rows have no token of an answer to train on", facts, "the tokenizer or the chat template leaves nothing of it")
    return list(examples)


def _held_out(rows: Sequence[Row], params: Params) -> tuple[list[int], list[int]]:
    """(rows to train on, rows that decide when to stop), by the hash of each row."""
    if params.early_stopping_patience is None:
        return list(range(len(rows))), []
    chosen = [bucket(row) // HELD_OUT_SHARE % _STOPPING_SHARE == 0 for row in rows]
    trained, stopping = [i for i, out in enumerate(chosen) if not out], [i for i, out in enumerate(chosen) if out]
    if not trained or not stopping:
        facts = [("rows", str(len(rows))), ("held out", str(len(stopping)))]
        raise BuildError("there are too few rows to stop early", facts, "give more rows, or leave early_stopping_patience out")
    return trained, stopping


def _part(reference: Mapping[str, Sequence[float]] | None, rows: Sequence[int]) -> tuple[list[float], list[float]] | None:
    return ([reference["chosen"][i] for i in rows], [reference["rejected"][i] for i in rows]) if reference else None


def _early_stop(
    params: Params,
    loss: Behaviour,
    examples: Sequence[Example],
    reference: tuple[list[float], list[float]] | None,
    named: Sequence[tuple[str, torch.nn.Parameter]],
) -> EarlyStopping:
    assert params.early_stopping_patience is not None
    in_order = params.model_copy(update={"train_sampling_strategy": "sequential", "crop_prompts": 0.0})
    batches = BehaviourBatches(examples, [], -(-len(examples) // params.per_device_train_batch_size), in_order, reference)

    def held_out(model: PreTrainedModel) -> float:
        with torch.no_grad():
            found = [_on_device(batches[position]["answers"], model) for position in range(len(batches))]
            return sum(float(loss.wanted(model, answers)) for answers in found) / len(found)

    return EarlyStopping(
        held_out, named, every=params.eval_steps, patience=params.early_stopping_patience, threshold=params.early_stopping_threshold
    )


def _on_device(answers: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.to(model.device) for name, tensor in answers.items()}
