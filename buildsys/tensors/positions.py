"""Positions that a model has learned: config.json says how many, and transformers makes a row for each before it looks at the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from buildsys.errors import BuildError
from buildsys.tensors import configuration

_TENSOR = re.compile(r"(?:.*\.)?(?:wpe|embed_positions?|positions?_embed|pos(?:ition)?_emb(?:eddings?)?)\.weight")  # a row for each
_OTHER_SENSES = re.compile(r"vision|visual|image|img|audio|speech")  # parts with positions of their own
_LEARNED = {  # model types that make such a tensor whether it is stored or not
    "bart", "bert", "bert-generation", "big_bird", "biogpt", "blenderbot", "blenderbot-small", "camembert", "ctrl", "data2vec-text",
    "electra", "ernie", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "imagegpt", "mbart", "mvp", "openai-gpt", "opt", "plbart",
    "prophetnet", "qdqbert", "roberta", "roberta-prelayernorm", "trocr", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


def check(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], times_max: int, facts: list[tuple[str, str]]) -> None:
    """Raises BuildError for more learned positions than `times_max` times those that are stored. Others are computed, and cost nothing."""
    learned = [name for name in shapes if _TENSOR.fullmatch(name) and not _OTHER_SENSES.search(name)]
    if not learned and config.get("model_type") not in _LEARNED:
        return
    rows = max((shapes[name][0] for name in learned if shapes[name]), default=0)
    longest = max((side for shape in shapes.values() for side in shape), default=0)
    for name, number in configuration.positions(config):
        if number > times_max * (rows or longest):
            facts = [*facts, (name, f"{number:,}"), ("stored positions", f"{rows:,}")]
            raise BuildError("config.json is for a larger model than the weights are of", facts)
