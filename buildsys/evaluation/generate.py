"""prompt -> text from a model folder: greedy or seeded."""

from __future__ import annotations

from pathlib import Path

import torch

from buildsys.errors import BuildError
from buildsys.examples import encode
from buildsys.tensors import models


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
