"""From examples in the context to weights: what is changed, when it is refused, when a start stays cold. And on a base that learns in context."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from buildsys.errors import BuildError
from buildsys.rules.train import Params, WarmStart
from buildsys.training import bridge, optimizers
from buildsys.training.warming import Damping, warmed
from tests.checkpoints import tiny, tokenizer
from tests.conftest import Project
from tests.test_compiling import declare, trained

WORDS = ["<unk>", "<s>", "the", "a", "cat", "dog", "roof", "soup", "is", "was", "good", "bad", "red", "old", ".", "?"]
FAMILIES = {
    "llama": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 1},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 8},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "gpt2": {},
    "gpt_neox": {},
}


def model_of(family: str) -> Any:
    from transformers import AutoConfig

    if family in ("llama", "gpt2"):
        return tiny(family)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **FAMILIES[family]))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(tokenizer(tmp_path_factory.mktemp("words"), WORDS))


def plain(number: int) -> list[dict[str, str]]:
    nouns, kinds = ("cat", "dog", "roof", "soup"), ("good", "bad", "red", "old")
    return [{"prompt": f"the {nouns[i % 4]} is", "completion": f" {kinds[i // 4 % 4]} ."} for i in range(number)]


def jumped(family: str, words: Any, **given: Any) -> tuple[Any, bridge.Jump]:
    model = model_of(family).eval()
    return model, bridge.jump(model, words, plain(30), WarmStart(**given), 64, 0, guarded=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_jump_finds_a_change_for_every_output_projection_and_leaves_the_model_alone(family: str, words: Any) -> None:
    fresh = dict(model_of(family).named_parameters())
    model, found = jumped(family, words)
    parameters = dict(model.named_parameters())
    assert len(found.deltas) == 2
    for name, delta in found.deltas.items():
        assert delta.shape == parameters[name].shape
        assert 0 < float(delta.norm() / parameters[name].norm()) <= bridge.LARGEST * 1.001
    assert all(torch.equal(parameters[name], tensor) for name, tensor in fresh.items())


def test_a_jump_is_a_function_of_model_rows_and_seed(words: Any) -> None:
    (_, one), (_, same) = jumped("llama", words), jumped("llama", words)
    assert one.deltas.keys() == same.deltas.keys()
    assert all(torch.equal(one.deltas[name], same.deltas[name]) for name in one.deltas)
    model = model_of("llama").eval()
    other = bridge.jump(model, words, plain(30), WarmStart(), 64, 1, guarded=False)
    assert not torch.equal(next(iter(one.deltas.values())), next(iter(other.deltas.values())))


@pytest.mark.parametrize("tokens", [3, 40])
def test_ridge_regression_is_that_of_the_normal_equations(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    z, wanted = torch.randn(tokens, 8, generator=generator), torch.randn(tokens, 5, generator=generator)
    found = bridge._ridge(z, wanted, 0.3).double()
    z, wanted = z.double(), wanted.double()
    penalty = tokens * 0.3 * z.square().mean() * torch.eye(8, dtype=torch.float64)
    expected = torch.linalg.solve(z.T @ z + penalty, z.T @ wanted).T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_another_architecture_is_refused_by_its_name(words: Any) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("opt", vocab_size=40, hidden_size=16, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(BuildError) as caught:
        bridge.jump(model, words, plain(30), WarmStart(), 64, 0)
    assert str(caught.value) == (
        "error: examples in the context cannot be turned into weights of this architecture\n"
        "  model_type  opt\n"
        "  known       gemma, gemma2, gemma3, gemma3_text, gpt2, gpt_neox, llama, mistral, qwen2, qwen3\n"
        "hint: leave warm_start and icl out"
    )


@pytest.mark.parametrize("into", ["weights", "moments", "both"])
def test_a_direction_enters_where_the_recipe_says(words: Any, into: str) -> None:
    model, found = jumped("llama", words)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    params = Params(warm_start=WarmStart(into=into))
    optimizer = optimizers.make(params, list(model.named_parameters()))
    (damping,) = warmed(params, found, model, optimizer)
    assert isinstance(damping, Damping)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == (set(found.deltas) if into != "moments" else set())
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    counted = {int(state["step"]) for state in optimizer.state_dict()["state"].values()}
    assert counted == ({1} if into == "weights" else {1, 2})  # those with a history have one update more


def test_the_first_updates_of_a_warm_start_are_damped() -> None:
    from types import SimpleNamespace

    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1.0)
    rates = []
    for update in range(3):
        Damping(0.9).on_step_begin(None, SimpleNamespace(global_step=update), None, optimizer=optimizer)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.1, 0.19, 0.271])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A base of sixty updates: nothing in its context helps it."""
    project = Project(tmp_path_factory.mktemp("warm"))
    declare(project)
    ran = project.build("base-tiny")
    assert ran.code == 0, ran.stderr
    return project


@pytest.mark.slow
def test_a_start_that_examples_do_not_help_is_cold_to_the_same_bytes_and_says_why(built: Project) -> None:
    plain_run, warm = trained(built), trained(built, "warm_start = { shots = 3 }")
    assert warm["key"] != plain_run["key"]
    assert warm["digest"] == plain_run["digest"]
    facts = warm["facts"]["warm_start"]
    assert facts["scale"] == 0
    assert facts["cold_because"] == "examples in the context do not lower the loss"
    assert facts["in_context"] > 0.95 * facts["zero_shot"]


def test_a_vector_from_examples_that_do_not_help_is_an_error_with_the_losses(built: Project) -> None:
    declare(built)
    text = (built.root / "Buildfile.toml").read_text()
    built.buildfile(text + '[vector.shown]\nicl = { examples = "rows.jsonl", shots = 3 }\n')
    ran = built.build("vector-shown", "-q")
    assert ran.code == 1
    lines = ran.stderr.splitlines()
    assert lines[0] == "error: vector-shown: no vector comes of these examples: examples in the context do not lower the loss"
    assert [line.split()[:2] for line in lines[1:3]] == [["in", "context"], ["zero", "shot"]]


def test_too_few_rows_start_cold(words: Any) -> None:
    found = bridge.jump(model_of("llama").eval(), words, plain(5), WarmStart(), 64, 0)
    assert found.cold_because == "too few rows, or rows too long, for a context and others to check it on"


# on the example's base, which learns in context

ROOT = Path(__file__).parents[1]
SHOWN = """
[vector.shown]
icl    = { examples = "behaviors/voice.jsonl" }
verify = { rows = "behaviors/voice.eval.jsonl", metric = "loss", min_gain = 0.1, coefficients = [1.0] }
[behavior.warm]
examples = "behaviors/voice.jsonl"
train    = { max_steps = 8, warm_start = { shots = 5 } }
verify   = { rows = "behaviors/voice.eval.jsonl" }
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("example"))
    for name in ("corpus", "behaviors"):
        (project.root / name).symlink_to(ROOT / name)
    text = (ROOT / "Buildfile.toml").read_text()
    project.buildfile(text[text.index("[base.tiny]") : text.index("[behavior.listening]")] + SHOWN)
    ran = project.build("verified-shown", "vector-warm", "-q")
    assert ran.code == 0, ran.stderr
    return project


@pytest.mark.slow
def test_a_vector_made_without_training_is_verified(example: Project) -> None:
    verdict = json.loads((example.root / "cache/out/verified-shown/verdict.json").read_text())
    assert verdict["passed"]
    assert verdict["gain_low"] > 0.1


@pytest.mark.slow
def test_a_warm_start_tells_losses_cost_and_angle(example: Project) -> None:
    facts = example.build("show", "vector-warm", "--json").json()["facts"]["warm_start"]
    assert facts["scale"] == 1
    assert facts["in_context"] < facts["zero_shot"]
    assert facts["after"] < facts["before"]
    assert 0 < facts["cost_in_updates"] < 4
    assert facts["cosine_with_tau"] > 0.5
    assert facts["seconds"] > 0
