"""A corpus of plain text -> documents, a tokenizer trained on them, training blocks, and a model of the asked shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

from buildsys import regular
from buildsys.errors import BuildError
from buildsys.training.batching import order
from buildsys.training.objectives import Batch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from buildsys.rules.pretrain import Params

_BYTES_MAX = 4_000_000_000
SPECIAL = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def documents(files: Sequence[Path]) -> list[str]:
    """Every paragraph of the files, in order; an empty line ends one."""
    found = [part.strip("\n") for file in files for part in _text(file).split("\n\n")]
    kept = [part for part in found if part.strip()]
    if not kept:
        raise BuildError("the corpus has no text", hint="documents are apart by an empty line")
    return kept


def _text(file: Path) -> str:
    try:
        return regular.read(file, _BYTES_MAX).decode().replace("\r\n", "\n").replace("\r", "\n")  # as a text file is read
    except UnicodeDecodeError as error:
        raise BuildError(f"{file.name} is not UTF-8", [("byte", f"{error.start:,}")]) from error


def tokenizer(texts: Sequence[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the documents; plain text gets `<s>` before it, messages the chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


class _Blocks(Dataset[Batch]):
    def __init__(self, blocks: torch.Tensor, per_batch: int) -> None:
        self._blocks = blocks.split(per_batch)

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, position: int) -> Batch:
        return {"blocks": {"input_ids": self._blocks[position]}}

    def tokens(self, position: int) -> int:
        return int(self._blocks[position].numel())

    def rows(self, position: int) -> Sequence[int]:
        return ()


def blocks(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int, batches: int, per_batch: int, seed: int) -> _Blocks:
    """The documents in random order as one stream `<s> … </s> <s> …`, cut into blocks of `length` tokens."""
    texts = [texts[i] for i in order(len(texts), len(texts), seed).tolist()]
    stream = [token for ids in tokenizer(texts).input_ids for token in [*ids, tokenizer.eos_token_id]]
    count = len(stream) // length
    if not count:
        raise BuildError("the corpus is too small", [("tokens", str(len(stream))), ("needed", str(length))])
    cut = torch.tensor(stream[: count * length]).view(count, length)
    return _Blocks(cut[order(count, batches * per_batch, seed)], per_batch)


def llama(tokenizer: PreTrainedTokenizerFast, params: Params) -> LlamaForCausalLM:
    """A Llama of the asked shape with random weights; input embeddings and head are one matrix."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=params.hidden_size,
        intermediate_size=params.intermediate_size,
        num_hidden_layers=params.num_hidden_layers,
        num_attention_heads=params.num_attention_heads,
        num_key_value_heads=params.num_key_value_heads or params.num_attention_heads,
        max_position_embeddings=params.max_position_embeddings,
        initializer_range=params.initializer_range,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    return model
