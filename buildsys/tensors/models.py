"""A causal language model in memory, from a folder: loaded without code of its own, frozen, asked for its context."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from buildsys.errors import BuildError, reason_of
from buildsys.tensors import checkpoints, configuration, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def deterministic(seed: int, threads: int) -> None:
    """One thread count, one seed, deterministic kernels: the same action gives the same bytes."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    random.seed(seed)


def load(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model, in its own dtype unless told, on the accelerator if there is one. Every weight must come from the folder.

    Which code runs is decided here, not by the folder: what attention it has decides the last bits of every number. So is how it
    generates: one token after the other.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    checkpoints.check_size(folder, configuration.read(folder), checkpoints.Checkpoint(folder))
    try:
        with settings.of_model(folder) as (view, chosen):
            config = AutoConfig.from_pretrained(view, local_files_only=True, trust_remote_code=False)
            has_sdpa = getattr(MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None), "_supports_sdpa", False)
            pinned = {"attn_implementation": "sdpa" if has_sdpa else "eager"} | chosen
            found: Any = AutoModelForCausalLM.from_pretrained(
                view,
                dtype=dtype or "auto",
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **pinned,
            )
    except BuildError:
        raise
    except Exception as error:  # a configuration that is wrong in detail makes transformers raise anything
        raise BuildError("the base cannot be loaded", [("reason", reason_of(error))]) from error
    model, loading = found
    absent = sorted(set(loading["missing_keys"]) - set(model.all_tied_weights_keys))
    if absent:
        raise BuildError(f"tensor '{absent[0]}' is missing from the base", [("missing", str(len(absent)))])
    if model.generation_config is not None:  # config.json may have settings for it, too
        model.generation_config = GenerationConfig(**settings.generation(vars(model.generation_config)))
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    loaded: PreTrainedModel = model.to(device).eval()
    return loaded


def context(model: PreTrainedModel, at_most: int) -> int:
    """How many tokens one row may have."""
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None) or at_most
    return int(min(own, at_most))


def freeze(model: PreTrainedModel, *, embeddings: bool) -> None:
    """With `embeddings`, input embeddings and head stay as they are: a behaviour is in the layers between."""
    still = [model.get_input_embeddings(), model.get_output_embeddings()] if embeddings else []
    for module in still:
        if module is not None:
            module.requires_grad_(False)
