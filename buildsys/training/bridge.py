"""From examples in the context to a change of weights, without training: what attention brings in, learnt by its output projection.

In a block, all that a context changes is what attention brings in: the input z of its output projection becomes z_C. Ridge regression over
answer tokens finds ΔW with (W + ΔW)·z ≈ W·z_C, block after block, each on what the blocks before it already changed produce. Nothing is
differentiated and no step size is searched. docs/warm-start.md has what was tried instead, and the figures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from torch.nn import functional

from buildsys.errors import BuildError
from buildsys.examples.encode import Answer, answer, batch, token_ids
from buildsys.examples.rows import Row, shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from buildsys.examples.encode import Tokenizer
    from buildsys.rules.train import WarmStart

OUTPUTS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text"), "self_attn.o_proj"),
    "gpt2": "attn.c_proj",
    "gpt_neox": "attention.dense",
}
"""model_type -> what the output projection of attention is called in a block."""

FIRST = 2  # a row is a query once it has this many before it
RIDGE = 0.5  # λ, as a share of the mean square of z
LARGEST = 1.0  # of ‖ΔW‖ / ‖W‖, for each matrix
HELPS = 0.9  # a context that leaves more than this share of the loss is not worth a jump
CHECKED = 4  # rows outside the contexts on which the jump has to lower the loss


@dataclass
class Jump:
    """What examples in the context came to.

    deltas       parameter -> ΔW, float32, in the parameter's shape; empty where the start is cold
    cold_because what a guard found, "" where the jump is taken
    losses       mean nats of an answer token: of the queries without and with their context; of other rows before and after
    tokens       that were passed forward
    """

    deltas: dict[str, torch.Tensor] = field(default_factory=dict)
    cold_because: str = ""
    losses: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0

    def facts(self, update_tokens: float) -> dict[str, Any]:
        """update_tokens  of one batch of the training: an update is three passes over it, forward and backward."""
        found: dict[str, Any] = {"scale": 0 if self.cold_because else 1}
        found |= {name: round(value, 5) for name, value in self.losses.items()}
        found["cost_in_updates"] = round(self.tokens / (3 * max(1.0, update_tokens)), 3)
        found["seconds"] = round(self.seconds, 3)
        return found | ({"cold_because": self.cold_because} if self.cold_because else {})


def projections(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """The output projections of attention, by name, in the order of the blocks. Raises BuildError for an unknown architecture."""
    kind = str(model.config.model_type)
    if kind not in OUTPUTS:
        facts = [("model_type", kind), ("known", ", ".join(sorted(OUTPUTS)))]
        raise BuildError(
            "examples in the context cannot be turned into weights of this architecture", facts, "leave warm_start and icl out"
        )
    return {name: module for name, module in model.named_modules() if name.endswith(OUTPUTS[kind])}


@torch.no_grad()
def jump(
    model: PreTrainedModel, tokenizer: Tokenizer, rows: Sequence[Row], given: WarmStart, max_length: int, seed: int, *, guarded: bool = True
) -> Jump:
    """ΔW of every output projection: a function of model, rows and seed alone. The model is as it was afterwards, bit for bit.

    `guarded`, the start is cold where the examples do not help in the context, and where a jump does not lower the loss of other rows.
    Without examples that fit into the context it always is.
    """
    started = time.monotonic()
    watched = projections(model)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    used = min(given.contexts, max(0, len(rows) - CHECKED) // given.shots) * given.shots
    groups = [[rows[i] for i in order[at : at + given.shots]] for at in range(0, used, given.shots)]
    contexts = [one for one in (_together(tokenizer, group, max_length) for group in groups) if one is not None]
    others = [_alone(tokenizer, rows[i], max_length) for i in order[used : used + CHECKED]]
    if not contexts or not others:
        return Jump(cold_because="too few rows, or rows too long, for a context and others to check it on")
    packs, queries = [pack for pack, _, _ in contexts], [one for _, asked, _ in contexts for one in asked]
    in_packs, in_queries = _predicting(packs, [skipped for _, _, skipped in contexts]), _predicting(queries, [0] * len(queries))
    found = Jump(tokens=sum(len(one.ids) for one in [*packs, *queries]))

    seen: dict[str, torch.Tensor] = {}
    found.losses["in_context"] = _loss(model, packs, in_packs, watched, seen.__setitem__)
    found.losses["zero_shot"] = _loss(model, queries, in_queries)
    if guarded and not found.losses["in_context"] < HELPS * found.losses["zero_shot"]:
        found.cold_because = "examples in the context do not lower the loss"
        found.seconds = time.monotonic() - started
        return found

    weights: Mapping[str, Any] = {name: module.weight for name, module in watched.items()}
    before = {name: weight.clone() for name, weight in weights.items()}

    def change(name: str, z: torch.Tensor) -> None:
        weight, crossed = weights[name], type(watched[name]).__name__ == "Conv1D"  # GPT-2's: (inputs, outputs)
        flat = weight.float().T if crossed else weight.float()
        delta = _ridge(z, (seen.pop(name) - z) @ flat.T, RIDGE)
        delta *= min(1.0, LARGEST * float(flat.norm()) / max(float(delta.norm()), 1e-12))
        found.deltas[f"{name}.weight"] = (delta.T if crossed else delta).contiguous()
        weight.add_(found.deltas[f"{name}.weight"].to(weight.dtype))

    at = _predicting(others, [0] * len(others))
    found.losses["before"] = _loss(model, others, at)
    _loss(model, queries, in_queries, watched, change)
    found.losses["after"] = _loss(model, others, at)
    found.tokens += sum(len(one.ids) for one in queries) + 2 * sum(len(one.ids) for one in others)
    for name, weight in weights.items():
        weight.copy_(before[name])
    if guarded and not (math.isfinite(found.losses["after"]) and found.losses["after"] < found.losses["before"]):
        found.deltas, found.cold_because = {}, "the jump does not lower the loss of other rows"
    found.seconds = time.monotonic() - started
    return found


def _together(tokenizer: Tokenizer, rows: Sequence[Row], max_length: int) -> tuple[Answer, list[Answer], int] | None:
    """(rows as one sequence, the queries among them alone, answer tokens before the first query); None where they do not fit."""
    alone = [_alone(tokenizer, row, max_length) for row in rows]
    if len(rows) <= FIRST:
        return None
    if shape(rows[0]) == "messages" or not isinstance(rows[0].get("prompt", ""), str):
        if any(isinstance(row.get("prompt"), str) for row in rows):
            return None  # text and messages do not make one conversation
        turns = [turn for row in rows for turn in (row["messages"] if "messages" in row else [*row["prompt"], *row[_field(row)]])]
        try:
            pack = answer(tokenizer, {"messages": turns}, "messages", max_length)
        except TemplateError:  # as of a template that takes a system message at the beginning alone
            return None
    elif any(not isinstance(row.get("prompt", ""), str) for row in rows):
        return None
    else:
        pack = _joined(tokenizer, alone, max_length)
    counts = [sum(one.scored) for one in alone]
    if pack.cut or sum(pack.scored) != sum(counts) or any(one.cut for one in alone):
        return None  # too long, or a template that marks the answers in another way when they follow each other
    return pack, alone[FIRST:], sum(counts[:FIRST])


def _joined(tokenizer: Tokenizer, alone: Sequence[Answer], max_length: int) -> Answer:
    """Plain rows one after another, an empty line between them, one token that begins a text."""
    between = token_ids(tokenizer, "\n\n", plain=False)
    ids, scored = list(alone[0].ids), list(alone[0].scored)
    for one in alone[1:]:
        start = 1 if one.ids[0] == tokenizer.bos_token_id else 0
        ids += between + one.ids[start:]
        scored += [False] * len(between) + one.scored[start:]
    return Answer(ids[:max_length], scored[:max_length], max(0, len(ids) - max_length))


def _alone(tokenizer: Tokenizer, row: Row, max_length: int) -> Answer:
    return answer(tokenizer, row, _field(row), max_length)


def _field(row: Row) -> str:
    return "chosen" if "chosen" in row else "completion"


def _ridge(z: torch.Tensor, wanted: torch.Tensor, strength: float) -> torch.Tensor:
    """(out, in): argmin Σ‖Δ·z_i − wanted_i‖² + n·λ·‖Δ‖², λ = strength · mean(z²). Solved over tokens or inputs, whichever are fewer."""
    tokens, side = z.shape
    added = tokens * strength * z.square().mean()
    if tokens <= side:
        found = torch.linalg.solve(z @ z.T + added * torch.eye(tokens, device=z.device), z).T @ wanted
    else:
        found = torch.linalg.solve(z.T @ z + added * torch.eye(side, device=z.device), z.T @ wanted)
    return torch.as_tensor(found.T)


def _predicting(answers: Sequence[Answer], skip: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, position) of every token from which an answer token is predicted, without the first `skip` of each row."""
    marked = [[position - 1 for position, mark in enumerate(one.scored) if mark][n:] for one, n in zip(answers, skip, strict=True)]
    row = torch.tensor([i for i, positions in enumerate(marked) for _ in positions])
    return row, torch.tensor([position for positions in marked for position in positions])


def _loss(
    model: PreTrainedModel,
    answers: Sequence[Answer],
    at: tuple[torch.Tensor, torch.Tensor],
    watched: Mapping[str, torch.nn.Module] | None = None,
    tell: Callable[[str, torch.Tensor], None] | None = None,
) -> float:
    """Mean cross-entropy at the places; `tell` gets each watched projection's input there before the projection acts on it."""
    ids = batch(answers)["input_ids"].to(model.device)
    place = tuple(index.to(model.device) for index in at)

    def hook(name: str) -> Callable[..., None]:
        return lambda _, given: tell(name, given[0][place].float()) if tell else None

    hooks = [module.register_forward_pre_hook(hook(name)) for name, module in (watched or {}).items()]
    try:
        logits = model(input_ids=ids, use_cache=False).logits[place].float()
    finally:
        for one in hooks:
            one.remove()
    row, position = place
    return float(functional.cross_entropy(logits, ids[row, position + 1]))
