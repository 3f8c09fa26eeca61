"""A model's own words: after a prompt, greedy or seeded; or from nothing, as a sample of what it knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from buildsys.errors import BuildError
from buildsys.examples import encode
from buildsys.tensors import models

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from buildsys.progress import Progress

_AT_ONCE = 100  # sequences of one batch; fixed, because the last bits of a sum depend on the shape it is taken in


def continuation(folder: Path, prompt: str, max_new_tokens: int, temperature: float, seed: int) -> str:
    """What the model says next: to a user's message where it has a chat template, else after the prompt as it stands."""
    model = models.load(folder)
    tokenizer = encode.load_tokenizer(str(folder))
    if tokenizer.chat_template:
        text = encode.render(tokenizer, [{"role": "user", "content": prompt}], generate=True)
        given = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    else:
        given = tokenizer(prompt, return_tensors="pt").input_ids
    torch.manual_seed(seed)
    chosen = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    room = models.context(model, 1 << 30) - given.shape[1]
    if room < 1:
        facts = [("prompt", f"{given.shape[1]} tokens"), ("context", f"{given.shape[1] + room} tokens")]
        raise BuildError("the prompt is longer than the model's context", facts, "give a shorter one")
    with torch.inference_mode():
        ids = model.generate(given.to(model.device), max_new_tokens=min(max_new_tokens, room), **chosen)  # type: ignore[operator]
    return str(tokenizer.decode(ids[0, given.shape[1] :], skip_special_tokens=True)).strip()


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
