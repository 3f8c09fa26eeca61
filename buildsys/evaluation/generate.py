"""A model's own words: after a prompt, greedy or seeded; or from nothing, as a sample of what it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from buildsys.errors import BuildError, reason_of
from buildsys.examples import encode
from buildsys.examples.rows import Row
from buildsys.tensors import models

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from buildsys.progress import Progress

_AT_ONCE = 100  # sequences of one batch; fixed, because the last bits of a sum depend on the shape it is taken in
_PROMPTS_AT_ONCE = 32  # for the same reason
_HINT = "compare config.json and generation_config.json with those of the model that it was made from"


def continuation(folder: Path, prompt: str, max_new_tokens: int, temperature: float, seed: int, template_date: str) -> str:
    """What the model says next: to a user's message where it has a chat template, else after the prompt as it stands."""
    model, tokenizer = models.load(folder), encode.load_tokenizer(str(folder), template_date)
    given = prompt_ids(tokenizer, {"prompt": [{"role": "user", "content": prompt}] if tokenizer.chat_template else prompt})
    return continuations(model, tokenizer, [given], max_new_tokens, temperature, seed)[0]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, row: Row) -> list[int]:
    """The token ids that a row is asked with: its prompt, or its messages before the last answer. Raises BuildError for nothing."""
    given = row["prompt"] if "prompt" in row else row["messages"][: _last_answer(row["messages"])]
    if not given:
        raise BuildError("a row has nothing before its answer", hint="give it a prompt, or a message of the user's, to ask the model with")
    text = given if isinstance(given, str) else encode.render(tokenizer, given, generate=True)
    return encode.token_ids(tokenizer, text, plain=isinstance(given, str))


def _last_answer(messages: Sequence[dict[str, str]]) -> int:
    return max(at for at, turn in enumerate(messages) if turn["role"] == "assistant")


def continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[str]:
    """What the model says after each prompt, greedy at temperature 0; in batches of like length.

    Raises BuildError for a prompt that leaves no room in the model's context, and where the model cannot be asked.
    """
    context = models.context(model, 1 << 30)
    longest = max(map(len, prompts))
    if longest >= context:
        facts = [("prompt", f"{longest} tokens"), ("context", f"{context} tokens")]
        raise BuildError("the prompt is longer than the model's context", facts, "give a shorter one")
    chosen = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    last = model.generation_config.eos_token_id if model.generation_config is not None else None
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (last[0] if isinstance(last, list) else last) or 0
    texts = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    for start in range(0, len(order), _PROMPTS_AT_ONCE):
        rows = order[start : start + _PROMPTS_AT_ONCE]
        width = len(prompts[rows[0]])
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, width - len(prompts[row]) :] = torch.tensor(prompts[row])
            mask[at, width - len(prompts[row]) :] = 1
        torch.manual_seed(seed + start)
        room = min(max_new_tokens, context - width)
        try:
            with torch.inference_mode():
                found = model.generate(  # type: ignore[operator]
                    ids.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=room, pad_token_id=pad, **chosen
                )
        except (MemoryError, BuildError):
            raise
        except Exception as error:  # numbers of the folder's own, which may fit neither each other nor the model
            raise BuildError("the model cannot go on from a prompt", [("reason", reason_of(error))], _HINT) from error
        for at, row in enumerate(rows):
            texts[row] = encode.words(tokenizer, found[at, width:]).strip()
    return texts


def sampled(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, number: int, length: int, seed: int, progress: Progress
) -> list[list[int]]:
    """`number` sequences of token ids at temperature 1, each from the token that begins a text to the one that ends it, or to `length`.

    Raises BuildError for a tokenizer that has no token to begin with.
    """
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise BuildError("the tokenizer has no token that begins a text", hint="keep = { rows = … } needs none")
    last = tokenizer.eos_token_id
    found: list[list[int]] = []
    for start in range(0, number, _AT_ONCE):
        progress(f"sequence {start}/{number}", start / number)
        generator = torch.Generator().manual_seed(seed + start)
        ids = torch.full((min(_AT_ONCE, number - start), 1), first)
        with torch.inference_mode():
            known, given = None, ids
            for _ in range(length - 1):
                out = model(input_ids=given.to(model.device), past_key_values=known, use_cache=True)
                known = out.past_key_values
                given = torch.multinomial(out.logits[:, -1].float().softmax(-1).cpu(), 1, generator=generator)
                ids = torch.cat([ids, given], 1)
                if last is not None and bool((ids[:, 1:] == last).any(1).all()):
                    break
        found += [_until(row, last) for row in ids.tolist()]
    return found


def _until(ids: list[int], last: int | None) -> list[int]:
    end = ids.index(last, 1) + 1 if last is not None and last in ids[1:] else len(ids)
    return ids[:end]
