"""What a model folder says of code is refused or without effect: the same weights and the same words come out."""

import json
from pathlib import Path

import pytest
import torch

from buildsys.errors import BuildError
from buildsys.examples import encode
from buildsys.tensors import models, settings
from tests.checkpoints import tiny, tokenizer

WORDS = [f"w{i}" for i in range(40)]
RAN = "CODE-OF-THE-MODEL-RAN"
CODE = "open({!r}, 'w').close()\nfrom transformers import LlamaForCausalLM as Evil, PreTrainedTokenizerFast as EvilTokenizer\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny("llama").save_pretrained(tmp_path / "model")
    tokenizer(tmp_path / "model", WORDS, template="{{ messages[0].content }}")
    (tmp_path / "model/evil.py").write_text(CODE.format(str(tmp_path / RAN)))
    return tmp_path / "model"


def edit(folder: Path, file: str, changes: dict) -> None:
    path = folder / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return models.load(folder)(torch.arange(12)[None]).logits


def attention(folder: Path) -> str:
    return str(models.load(folder).config._attn_implementation)


def test_attention_is_pinned_to_what_it_was(folder: Path) -> None:
    assert attention(folder) == "sdpa"


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_config_may_ask_for_the_attention_that_every_device_has(folder: Path, key: str) -> None:
    edit(folder, "config.json", {key: "eager"})
    assert attention(folder) == "eager"


HOSTILE: dict[str, dict] = {
    "attention of the Hub": {"_attn_implementation": "kernels-community/flash-attn", "attn_implementation": "evil/kernel"},
    "attention at a revision": {"_attn_implementation_internal": "evil/kernel@main:run"},
    "attention of a device": {"attn_implementation": "flash_attention_2"},
    "attention by part": {"attn_implementation": {"": "evil/kernel", "text_config": "evil/kernel"}},
    "attention that is no text": {"attn_implementation": ["sdpa"]},
    "experts": {"_experts_implementation": "evil/experts", "experts_implementation": "deepgemm"},
    "modules of its own": {"auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}},
    "modules of another": {"auto_map": {"AutoModelForCausalLM": "evil/repository--evil.Evil"}},
    "pipelines": {"custom_pipelines": {"text-generation": {"impl": "evil.Evil", "pt": ["AutoModelForCausalLM"]}}},
    "kernels": {"use_kernels": True, "kernel_config": {"kernel_mapping": {"RMSNorm": "evil/kernel:Norm"}}},
    "fusions": {"fusion_config": {"patch_embeddings": True, "evil": {"module": "evil"}}},
    "plans": {"base_model_tp_plan": {"layers.*": "evil"}, "base_model_pp_plan": {"layers": [["x"], ["y"]]}, "tp_plan": "auto"},
    "weights elsewhere": {"transformers_weights": "../../evil.safetensors", "extra_files": ["/etc/passwd"]},
    "classes": {"processor_class": "EvilProcessor", "feature_extractor_class": "Evil", "image_processor_class": "evil--Evil"},
    "a name": {"_name_or_path": "evil/repository", "name_or_path": "/x", "_commit_hash": "x"},
    "devices": {"device_map": "disk", "distributed_config": {"tp_size": 2}},
    "a dtype": {"dtype": "load", "torch_dtype": "hub"},
    "adapter": {"adapter_kwargs": {"revision": "evil"}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_config_chooses_no_code(folder: Path, name: str) -> None:
    before = logits(folder)
    edit(folder, "config.json", HOSTILE[name])
    assert torch.equal(logits(folder), before)
    assert attention(folder) == "sdpa"
    assert not (folder.parent / RAN).exists()


def test_nested_settings_choose_no_code(folder: Path) -> None:
    edit(
        folder,
        "config.json",
        {"text_config": {"auto_map": {"AutoConfig": "evil.Evil"}, "hidden_size": 4, "parts": [{"attn_implementation": "a/b"}]}},
    )
    with settings.of_model(folder) as (view, _):
        assert json.loads((view / "config.json").read_text())["text_config"] == {"hidden_size": 4, "parts": [{}]}


def test_a_quantized_model_is_refused(folder: Path) -> None:
    edit(folder, "config.json", {"quantization_config": {"quant_method": "evil"}})
    with pytest.raises(BuildError) as refused:
        models.load(folder)
    assert refused.value.headline == "the model is quantized"


GENERATION: dict[str, dict] = {
    "code": {"custom_generate": "evil/repository", "trust_remote_code": True, "auto_map": {"generate": "evil.Evil"}},
    "a compiler": {"compile_config": {"backend": "evil"}},
    "beams": {"num_beams": 3_000_000},
    "groups of beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "several answers": {"num_return_sequences": 3},
    "other layers": {"dola_layers": "high"},
    "a contrastive search": {"penalty_alpha": 0.6, "top_k": 4},
    "an assistant": {"prompt_lookup_num_tokens": 3, "assistant_early_exit": 1},
    "lengths": {"max_length": 1 << 60, "min_length": 1 << 60, "min_new_tokens": 1 << 60, "max_time": 0.0},
    "a cache": {"cache_implementation": "static", "cache_config": {"max_cache_len": 1 << 40}},
    "no tokens": {"pad_token_id": "x", "bos_token_id": {"a": 1}, "suppress_tokens": list(range(2_000))},
    "no numbers": {"repetition_penalty": "x", "no_repeat_ngram_size": [1], "top_k": True},
    "an output": {"return_dict_in_generate": True, "output_scores": True},
    "unknown": {"x": {"y": 1}},
}


@pytest.mark.parametrize("name", GENERATION)
def test_a_generation_config_chooses_no_code_and_no_other_way_to_generate(folder: Path, name: str) -> None:
    def words() -> list[int]:
        return models.load(folder).generate(torch.arange(4)[None], max_new_tokens=5, do_sample=False)[0].tolist()  # type: ignore[operator]

    before = words()
    edit(folder, "generation_config.json", GENERATION[name])
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(CODE.format(str(folder.parent / RAN)))
    assert words() == before
    assert not (folder.parent / RAN).exists()


def test_a_config_that_asks_for_beams_changes_no_words(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    before = models.load(folder).generation_config
    edit(folder, "config.json", {"num_beams": 4, "max_length": 1 << 60, "penalty_alpha": 0.6})
    assert vars(models.load(folder).generation_config) == vars(before)


def test_a_generation_config_keeps_what_chooses_among_tokens(folder: Path) -> None:
    given = {"eos_token_id": [2, 3], "pad_token_id": 0, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    edit(folder, "generation_config.json", {**given, "temperature": 0.7, "do_sample": True})
    config = models.load(folder).generation_config
    assert {name: value for name, value in vars(config).items() if name in given} == given


@pytest.mark.parametrize("base", ["evil/base", "../other"])
def test_an_adapter_beside_the_weights_is_not_loaded(folder: Path, base: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    before = logits(folder)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(folder)
    edit(folder, "adapter_config.json", {"base_model_name_or_path": base})
    assert torch.equal(logits(folder), before)


# tokenizers


def ids(folder: Path) -> list[int]:
    return encode.load_tokenizer(str(folder))("w3 w1 w4").input_ids


TOKENIZERS: dict[str, dict] = {
    "modules of its own": {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}},
    "modules of another": {"auto_map": {"AutoTokenizer": [None, "evil/repository--evil.EvilTokenizer"]}},
    "files elsewhere": {"vocab_file": "/etc/passwd", "merges_file": "../x", "fast_tokenizer_files": ["../tokenizer.9.json"]},
    "a processor": {"processor_class": "EvilProcessor"},
    "trust": {"trust_remote_code": True, "custom_object_save": True, "_commit_hash": "x"},
    "a class of nobody's": {"tokenizer_class": "EvilTokenizer"},
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_settings_of_a_tokenizer_choose_no_code(folder: Path, name: str) -> None:
    before = ids(folder)
    edit(folder, "tokenizer_config.json", TOKENIZERS[name])
    edit(folder, "special_tokens_map.json", {key: value for key, value in TOKENIZERS[name].items() if key != "tokenizer_class"})
    assert ids(folder) == before
    assert not (folder.parent / RAN).exists()


NOT_TOKENIZERS = [
    "LlamaForCausalLM",
    "AutoTokenizer",
    "AutoModel",
    "Trainer",
    "pipeline",
    "AutoProcessor",
    "CLIPProcessor",
    "models",
    "__path__",
    "LlamaConfig",
]


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_class_that_is_not_a_tokenizer_is_refused(folder: Path, file: str) -> None:
    for name in [*NOT_TOKENIZERS, 7, ["LlamaTokenizer"]]:
        edit(folder, file, {"tokenizer_class": name})
        with pytest.raises(BuildError) as refused:
            encode.load_tokenizer(str(folder))
        assert (refused.value.headline, refused.value.facts) == (
            "the tokenizer's class is not a tokenizer of transformers",
            (("tokenizer_class", str(name)),),
        )


CLASSES = [
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "GPT2Tokenizer",
    "Qwen2TokenizerFast",
    "PreTrainedTokenizer",
]


@pytest.mark.parametrize("name", CLASSES)
def test_a_tokenizer_of_transformers_is_what_it_is_without_us(folder: Path, name: str) -> None:
    from transformers import AutoTokenizer

    edit(folder, "tokenizer_config.json", {"tokenizer_class": name})
    theirs = AutoTokenizer.from_pretrained(folder)
    with settings.of_tokenizer(folder) as view:
        ours = AutoTokenizer.from_pretrained(view)
    assert (type(ours), ours("w3 w1 w4").input_ids) == (type(theirs), theirs("w3 w1 w4").input_ids)
