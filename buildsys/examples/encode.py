"""Rows -> token ids with the answer marked, through the model's own tokenizer and chat template. Knows no model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildsys import deadline
from buildsys.errors import BuildError, reason_of
from buildsys.examples import templates
from buildsys.examples.rows import Row, shape
from buildsys.tensors import settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    Tokenizer = PreTrainedTokenizerBase

_TEMPLATE_SECONDS = 10
_TEMPLATE_HINT = "correct the chat_template.jinja beside the base, or the rows that it refuses"
IGNORED = -100  # the label that transformers' losses skip


@dataclass(frozen=True)
class Answer:
    """One sequence whose loss is taken on the answer only.

    ids     token ids, at most max_length
    scored  same length; True where the token belongs to an answer and has one before it to be predicted from
    cut     how many tokens were dropped at the left to fit
    """

    ids: list[int]
    scored: list[bool]
    cut: int


@dataclass(frozen=True)
class Example:
    chosen: Answer
    rejected: Answer | None  # of a preference row


def load_tokenizer(folder: str, template_date: str | None = None) -> Tokenizer:
    """The tokenizer of a model folder; from now on this process tells chat templates that date.

    Raises BuildError where the folder has none, or one that needs code of its own.
    """
    from transformers import AutoTokenizer

    templates.set_clock(template_date)
    with _explained("the base has no tokenizer that can be loaded"), settings.of_tokenizer(Path(folder)) as view:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(str(view), local_files_only=True, trust_remote_code=False)
        first = tokenizer("a word", add_special_tokens=False).input_ids
    if not first:  # transformers makes an empty one where it finds no files
        raise BuildError("the base has no tokenizer that can be loaded", [("reason", "its vocabulary is empty")], _TOKENIZER_HINT)
    return tokenizer


@contextlib.contextmanager
def _explained(headline: str) -> Iterator[None]:
    """Raises BuildError for whatever the tokenizers library raises: nothing narrower, and a panic is not an Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, BuildError, deadline.Expired):
        raise
    except BaseException as error:
        raise BuildError(headline, [("reason", reason_of(error))], _TOKENIZER_HINT) from error


_TOKENIZER_HINT = "training and verification need tokenizer.json (or its kin) beside the weights; merging does not"


def encode(tokenizer: Tokenizer, rows: Sequence[Row], max_length: int) -> list[Example]:
    """Every row as token ids; what is too long loses its beginning, so that the answer stays."""
    return [
        Example(
            answer(tokenizer, row, "chosen" if "chosen" in row else "completion", max_length),
            answer(tokenizer, row, "rejected", max_length) if shape(row) == "preference" else None,
        )
        for row in rows
    ]


def whole(tokenizer: Tokenizer, rows: Sequence[Row], max_length: int) -> list[Example]:
    """Every row with all of its tokens marked, prompt and answer alike: what must not change as a whole."""
    found = [one.chosen for one in encode(tokenizer, rows, max_length)]
    return [Example(Answer(one.ids, [position > 0 for position in range(len(one.ids))], one.cut), None) for one in found]


def answer(tokenizer: Tokenizer, row: Row, field: str, max_length: int) -> Answer:
    """One sequence of a row: all of a `text`, every assistant turn of `messages`, else the answer after the prompt."""
    kind = shape(row)
    if kind == "text":
        ids = token_ids(tokenizer, row["text"], plain=True)
        return _fitted(ids, [True] * len(ids), max_length)
    if kind == "messages":
        return _fitted(*_conversation(tokenizer, row["messages"]), max_length)
    if isinstance(row["prompt"], str):
        head = token_ids(tokenizer, row["prompt"], plain=True) if row["prompt"] else []
        ids = token_ids(tokenizer, row["prompt"] + row[field], plain=True)
    else:
        head = token_ids(tokenizer, render(tokenizer, row["prompt"], generate=True), plain=False)
        ids = token_ids(tokenizer, render(tokenizer, [*row["prompt"], *row[field]]), plain=False)
    start = _common_prefix(head, ids)
    return _fitted(ids, [position >= start for position in range(len(ids))], max_length)


def render(tokenizer: Tokenizer, messages: Sequence[dict[str, str]], *, generate: bool = False) -> str:
    """The conversation as text, by the model's own chat template."""
    if not tokenizer.chat_template:
        raise BuildError(
            "the base has no chat template, but its rows are messages",
            hint="use rows of plain prompt and answer, or put a chat_template.jinja beside the base",
        )
    try:
        with deadline.within(_TEMPLATE_SECONDS):
            return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generate))
    except deadline.Expired as error:
        raise BuildError(f"the chat template takes more than {_TEMPLATE_SECONDS} seconds for a row", hint=_TEMPLATE_HINT) from error
    except BuildError:  # of the clock that it is told
        raise
    except Exception as error:  # a template is a program of somebody else's: it may raise anything
        facts = [("reason", f"{type(error).__name__}: {reason_of(error)}")]
        raise BuildError("the chat template cannot render a row", facts, _TEMPLATE_HINT) from error


def _conversation(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
    ids = token_ids(tokenizer, render(tokenizer, messages), plain=False)
    scored = [False] * len(ids)
    for position, turn in enumerate(messages):
        if turn["role"] == "assistant":
            before = token_ids(tokenizer, render(tokenizer, messages[:position], generate=True), plain=False)
            until = token_ids(tokenizer, render(tokenizer, messages[: position + 1]), plain=False)
            for token in range(_common_prefix(before, ids), _common_prefix(until, ids)):
                scored[token] = True
    return ids, scored


def token_ids(tokenizer: Tokenizer, text: str, *, plain: bool) -> list[int]:
    """The token ids of a text; plain: with the tokens that the tokenizer adds, as for what no template has rendered.

    Raises BuildError where the tokenizer cannot encode it.
    """
    with _explained("the tokenizer cannot encode a text"):
        tokens: list[int] = tokenizer(text, add_special_tokens=plain, verbose=False).input_ids
    return tokens


def words(tokenizer: Tokenizer, tokens: Any) -> str:
    """The text of token ids, without special tokens. Raises BuildError where the tokenizer cannot decode them."""
    with _explained("the tokenizer cannot decode what the model said"):
        return str(tokenizer.decode(tokens, skip_special_tokens=True))


def _common_prefix(left: list[int], right: list[int]) -> int:
    length = min(len(left), len(right))
    while length and left[:length] != right[:length]:
        length -= 1
    return length


def _fitted(ids: list[int], scored: list[bool], max_length: int) -> Answer:
    cut = max(0, len(ids) - max_length)
    ids, scored = ids[cut:], scored[cut:]
    return Answer(ids, [mark and position > 0 for position, mark in enumerate(scored)], cut)


def batch(answers: Sequence[Answer]) -> dict[str, torch.Tensor]:
    """Right-padded (rows, longest) tensors: input_ids, and labels that are IGNORED outside answers.

    No mask: in a causal model what stands to the right of a token cannot reach it, and attention without a mask is faster.
    """
    import torch

    width = max(len(answer.ids) for answer in answers)
    ids = torch.zeros(len(answers), width, dtype=torch.long)
    labels = torch.full((len(answers), width), IGNORED, dtype=torch.long)
    for row, one in enumerate(answers):
        given = torch.tensor(one.ids)
        ids[row, : len(one.ids)] = given
        labels[row, : len(one.ids)] = given.where(torch.tensor(one.scored), torch.tensor(IGNORED))
    return {"input_ids": ids, "labels": labels}


def cut_facts(examples: Sequence[Example], max_length: int) -> dict[str, Any]:
    """How many rows were longer than the context and what was done with them; empty where none was."""
    cut = [example for example in examples if example.chosen.cut or (example.rejected and example.rejected.cut)]
    if not cut:
        return {}
    return {"rows_cut": len(cut), "rows": len(examples), "max_length": max_length}
