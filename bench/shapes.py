"""Checkpoints of real shapes with random numbers: a base and models tuned from it, in bfloat16, made once and kept."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy

from buildsys.tensors.writing import Writer


@dataclass(frozen=True)
class Shape:
    """A Llama-like model; `biases` on query, key and value as Qwen2 has them."""

    model_type: str
    architecture: str
    hidden: int
    inner: int
    layers: int
    heads: int
    key_values: int
    vocabulary: int
    biases: bool

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        narrow = self.hidden // self.heads * self.key_values
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        yield "model.norm.weight", (self.hidden,)
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            yield f"{at}.input_layernorm.weight", (self.hidden,)
            yield f"{at}.post_attention_layernorm.weight", (self.hidden,)
            for part, rows in (("q", self.hidden), ("k", narrow), ("v", narrow)):
                yield f"{at}.self_attn.{part}_proj.weight", (rows, self.hidden)
                if self.biases:
                    yield f"{at}.self_attn.{part}_proj.bias", (rows,)
            yield f"{at}.self_attn.o_proj.weight", (self.hidden, self.hidden)
            yield f"{at}.mlp.gate_proj.weight", (self.inner, self.hidden)
            yield f"{at}.mlp.up_proj.weight", (self.inner, self.hidden)
            yield f"{at}.mlp.down_proj.weight", (self.hidden, self.inner)

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for _, shape in self.tensors())

    def config(self) -> str:
        given = {"architectures": [self.architecture], "model_type": self.model_type, "hidden_size": self.hidden}
        given |= {"intermediate_size": self.inner, "num_hidden_layers": self.layers, "num_attention_heads": self.heads}
        given |= {"num_key_value_heads": self.key_values, "vocab_size": self.vocabulary, "tie_word_embeddings": True}
        return json.dumps(given | {"torch_dtype": "bfloat16", "max_position_embeddings": 4096}, indent=1)


QWEN2_HALF_B = Shape("qwen2", "Qwen2ForCausalLM", 896, 4864, 24, 14, 2, 151_936, True)
LLAMA_134M = Shape("llama", "LlamaForCausalLM", 576, 1536, 30, 9, 3, 49_152, False)


def make(folder: Path, shape: Shape, tuned: int) -> None:
    """`base` and `tuned` models `m1`, `m2`, … where they are not there yet: weights ~ N(0, 0.02), differences ~ N(0, 0.001)."""
    names = ["base", *(f"m{number}" for number in range(1, tuned + 1))]
    if all((folder / name / "model.safetensors").exists() for name in names):
        return
    header = {name: ("BF16", sides) for name, sides in shape.tensors()}
    writers = []
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(shape.config())
        writers.append(Writer(folder / name / "model.safetensors", header, {"format": "pt"}))
    generator = numpy.random.default_rng(0)
    for name in sorted(header):
        count = math.prod(header[name][1])
        base = generator.standard_normal(count, numpy.float32) * numpy.float32(0.02)
        writers[0].write(name, _bfloat16(base))
        for writer in writers[1:]:
            writer.write(name, _bfloat16(base + generator.standard_normal(count, numpy.float32) * numpy.float32(0.001)))
    for writer in writers:
        writer.close()


def _bfloat16(numbers: numpy.ndarray) -> numpy.ndarray:
    return (numbers.view(numpy.uint32) >> 16).astype(numpy.uint16)
