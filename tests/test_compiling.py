"""What a training may be told and what it tells: arguments, objectives, early stop, memory, rows from elsewhere. On a tiny model."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from buildsys.errors import BuildError
from buildsys.examples.encode import Answer, Example
from buildsys.rules.train import Params, Settings, Steering
from buildsys.tensors.checkpoints import Checkpoint
from buildsys.training import arguments
from tests import test_training
from tests.checkpoints import tiny
from tests.conftest import Project
from tests.hub import listed
from tests.test_training import rows


def declare(project: Project, train: str = "", objective: str = "sft") -> None:
    test_training.declare(project, train=train, objective=objective)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A base, built once."""
    project = Project(tmp_path_factory.mktemp("compiling"))
    declare(project)
    ran = project.build("base-tiny")
    assert ran.code == 0, ran.stderr
    return project


def trained(project: Project, train: str = "", objective: str = "sft") -> dict:
    """What `show` says of a vector that was just trained."""
    declare(project, train, objective)
    ran = project.build("vector-later", "-q")
    assert ran.code == 0, ran.stderr
    return project.build("show", "vector-later", "--json").json()


def failed(project: Project, train: str, objective: str = "sft") -> str:
    declare(project, train, objective)
    ran = project.build("vector-later", "-q")
    assert ran.code != 0
    return ran.stderr


# arguments


def test_every_argument_of_transformers_is_decided_on() -> None:
    from transformers import TrainingArguments

    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert {*arguments.DECISIVE, *arguments.STEERING, *arguments.REFUSED} == known
    assert len(known) == len(arguments.DECISIVE) + len(arguments.STEERING) + len(arguments.REFUSED)
    assert set(arguments.DECISIVE) <= {*Settings.model_fields, "seed"}
    assert set(arguments.STEERING) == set(Steering.model_fields)


def test_names_that_cannot_be_given_are_refused_with_the_reason(project: Project) -> None:
    declare(project, "optim = 'adamw_torch', push_to_hub = true, lerning_rate = 1, learning_rate = 0, warmup_steps = -1")
    ran = project.build("vector-later")
    assert ran.code == 2
    assert ran.stderr == (
        "error: 5 problems in Buildfile.toml\n"
        "  line 22  behavior.later  'train.learning_rate' is 0, expected greater than 0\n"
        "  line 22  behavior.later  'train.warmup_steps' is -1, expected greater than or equal to 0\n"
        '  line 22  behavior.later  \'optim\' is not used: say optimizer = "apollo", "apollo-mini" or "adamw"\n'
        "  line 22  behavior.later  'push_to_hub' is not done by a build: build export gives a folder to upload\n"
        "  line 22  behavior.later  unknown key 'lerning_rate' in train\n"
        "hint: the nearest key to 'lerning_rate' is 'learning_rate'\n"
    )


CONTRADICTIONS = {
    'updates = "fused", gradient_accumulation_steps = 4': "does not go with gradient_accumulation_steps = 4",
    'updates = "fused", max_grad_norm = 1': "does not go with max_grad_norm = 1",
    'updates = "fused", optimizer = "adamw"': 'does not go with optimizer = "adamw"',
    "rpo_alpha = 0.1": 'rpo_alpha belongs to objectives "preference" and "dpo"',
    "ema_decay = 0.9, early_stopping_patience = 2": "ema_decay and early_stopping_patience both choose the weights: give one",
    'warm_start = { into = "both" }, optimizer = "adamw"': "warm_start into both is a history of APOLLO's",
    "keep = { weight = 2 }": "keep needs 'rows', or a number of 'samples' from the base, or both",
    'optimizer = "adamw", weights_dtype = "bfloat16"': 'weights_dtype = "bfloat16" is for APOLLO',
    "rank = 1": "rank = 1 with a factor for each channel is no estimate",
    'objective = "dpo", crop_prompts = 0.5': 'crop_prompts does not go with objective "dpo"',
    "num_train_epochs = 2": "max_steps and num_train_epochs both say how long to train: give one",
    'label_smoothing_factor = 0.1, objective = "dpo"': 'label_smoothing_factor belongs to objective "sft", not "dpo"',
    "lora = { r = 4 }, train_embeddings = true": "it does not go with train_embeddings",
    "mirror = true": 'mirror runs the model at base − τ too: it does not go with objective "sft", which has no opposite',
    'objective = "dpo", mirror = true, lora = { r = 4 }': "it does not go with lora, whose mirror image is no product of its factors",
    'objective = "preference", mirror = true, activation_checkpointing = true, processes = 2': (
        "it does not go with activation_checkpointing and processes = 2"
    ),
    "lora = { r = 4 }, warm_start = { shots = 3 }": "warm_start moves whole matrices: it does not go with lora",
}


@pytest.mark.parametrize("given", CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_refused_before_anything_runs(project: Project, given: str) -> None:
    declare(project, given)
    ran = project.build("vector-later", "-n")
    assert ran.code == 2
    assert CONTRADICTIONS[given] in ran.stderr


STEERED = ["logging_steps = 5", "save_steps = 5", 'report_to = "tensorboard"', "dataloader_num_workers = 1", 'run_name = "x"']


@pytest.mark.slow
def test_what_is_logged_and_saved_enters_no_key(built: Project) -> None:
    plain = trained(built)
    for given in STEERED:
        declare(built, given)
        assert built.build("vector-later", "-n", "--json").json()["targets"]["vector-later"] | {"why": []} == {
            "state": "fresh", "key": plain["key"], "digest": plain["digest"], "why": [],
        }  # fmt: skip


DECIDED = [
    "per_device_train_batch_size = 3", "weight_decay = 0.1", "label_smoothing_factor = 0.1", 'updates = "fused"', "lora = { r = 2 }",
    'keep = { rows = "kept.jsonl" }', "keep = { samples = 8, sample_length = 16 }", "gradient_accumulation_steps = 2",
    'lr_scheduler_type = "polynomial"', "warmup_steps = 0.1", "max_grad_norm = 0.01", "neftune_noise_alpha = 5", "data_seed = 3",
    'train_sampling_strategy = "group_by_length"', "activation_checkpointing = true", "early_stopping_patience = 2",
    'optimizer = "apollo-mini"', 'weights_dtype = "bfloat16"', "bf16 = true", "crop_prompts = 0.5", "ema_decay = 0.9",
]  # fmt: skip


@pytest.fixture(scope="module")
def variants(built: Project) -> dict[str, dict]:
    """What a build says of one vector for every argument in DECIDED, and for none: all of them from one build."""
    declare(built)
    head, behaviour = (built.root / "Buildfile.toml").read_text().split("[behavior.later]\n")
    given = ["", *DECIDED]
    tables = [f"[behavior.later{at}]\n" + behaviour.replace("train = {  }", f"train = {{ {one} }}") for at, one in enumerate(given)]
    built.buildfile(head + "".join(tables))
    ran = built.build("vector-*", "--json")
    assert ran.code == 0, ran.stderr
    return {one: ran.json()["targets"][f"vector-later{at}"] for at, one in enumerate(given)}


@pytest.mark.parametrize("given", DECIDED)
def test_what_decides_a_result_has_another_key_and_is_carried_out(variants: dict[str, dict], given: str) -> None:
    """Other bytes too: no argument is read and then ignored. Recomputed activations and fused updates alone give the same."""
    plain, other = variants[""], variants[given]
    assert other["key"] != plain["key"]
    same = given in ("activation_checkpointing = true", 'updates = "fused"')
    assert (other["digest"] == plain["digest"]) == same


def test_a_later_option_enters_the_key_only_where_it_is_used(built: Project) -> None:
    key = trained(built, objective="preference")["key"]
    for given, same in (("mirror = false", True), ("mirror = true", False)):
        declare(built, given, "preference")
        found = built.build("vector-later", "-n", "--json").json()["targets"]["vector-later"]
        assert (found["state"] == "fresh", found["key"] == key) == (same, same)


@pytest.mark.parametrize("objective", ["preference", "dpo"])
def test_a_mirrored_loss_is_the_same_at_the_other_side_of_the_base_with_answers_exchanged(objective: str) -> None:
    from buildsys.training.objectives import Behaviour

    torch.manual_seed(0)
    model = tiny("llama")
    ids = torch.randint(1, 30, (6, 9))
    answers = {"input_ids": ids, "labels": ids.where(torch.arange(9) > 3, torch.tensor(-100)), "reference": torch.randn(6)}
    keep = {"input_ids": ids[:2], "labels": ids[:2], "shares": torch.tensor([0.1, 0.05])}
    exchanged = {name: torch.cat([tensor[3:], tensor[:3]]) for name, tensor in answers.items()}
    loss = Behaviour(Params(objective=objective, margin=2.0, mirror=True, keep_weight=3.0), model, True)
    step = {name: 0.02 * torch.randn_like(weight) for name, weight in model.named_parameters()}
    found = []
    for sign, given in ((1, answers), (-2, exchanged)):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.add_(step[name], alpha=sign)
        model.zero_grad()
        one = loss(model, {"answers": given, "keep": keep})
        one.backward()
        found.append((one.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-4)
    assert torch.allclose(found[0][1], -found[1][1], rtol=1e-2, atol=1e-4)
    assert found[0][1].abs().max() > 1e-3


def test_a_kernel_that_is_not_installed_is_named(project: Project, built: Project) -> None:
    project.share(built.root / "cache")
    said = failed(project, "use_liger_kernel = true")
    assert said.startswith("error: vector-later: use_liger_kernel needs the package liger-kernel\n")


def test_epochs_are_counted_in_rows(built: Project) -> None:
    declare(built)
    text = (built.root / "Buildfile.toml").read_text()
    built.buildfile(text.replace("max_steps = 12", "num_train_epochs = 0.5"))
    ran = built.build("vector-later", "--json")
    facts = ran.json()["targets"]["vector-later"]["facts"]
    number = len([line for line in (built.root / "rows.jsonl").read_text().splitlines() if line])
    assert facts["updates"] == pytest.approx(0.5 * number * 0.8 / 4, abs=2)  # a fifth is held out, four rows a batch


def test_facts_tell_what_a_run_took(built: Project) -> None:
    facts = trained(built)["facts"]
    assert facts["updates"] == 12
    assert [update for update, _ in facts["loss_curve"]] == list(range(1, 13))
    assert facts["tokens_seen"] > 12 * 4 * 10
    assert facts["peak_memory_bytes"] > 1 << 24
    assert facts["optimizer_state_bytes"] > 0
    assert facts["seconds_training"] > 0


def test_progress_says_updates_loss_speed_and_time_left(project: Project, built: Project) -> None:
    from buildsys.progress import Progress
    from buildsys.tensors import models
    from buildsys.training import batching, fit, objectives, optimizers

    models.deterministic(0, 1)
    model = tiny("llama")
    params = Params(max_steps=3, per_device_train_batch_size=2)
    examples = [Example(Answer([1, 2, 3, 4 + i], [False, True, True, True], 0), None) for i in range(4)]
    said: list[str] = []
    progress = Progress(project.root, lambda text, share: said.append(text), {})
    batches = batching.BehaviourBatches(examples, [], 3, params)
    optimizer = optimizers.make(params, list(model.named_parameters()))
    fit.fit(model, batches, objectives.Behaviour(params, model, False), params, 3, optimizer, progress)
    assert re.fullmatch(r"update 3/3 · loss \d\.\d{3} · \d+ tokens/s · 0 s left", said[-1])


@pytest.mark.slow
def test_logs_for_tensorboard_go_into_the_cache(built: Project) -> None:
    declare(built, 'report_to = "tensorboard", seed = 11')
    assert built.build("vector-later", "-q").code == 0
    assert list((built.root / "cache/logs/vector-later").glob("events.out.tfevents.*"))


# objectives


def test_the_loss_of_dpo_is_that_of_the_paper() -> None:
    from buildsys.training.objectives import dpo

    found = dpo(torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -1.0]), torch.tensor([-2.0, -2.0, -2.0, -2.0]), 0.5)
    by_hand = [-torch.log(torch.sigmoid(torch.tensor(0.5 * gap))) for gap in ((-1 + 2) - (-3 + 2), (-2 + 2) - (-1 + 2))]
    assert float(found) == pytest.approx(float(sum(by_hand) / 2))


@pytest.mark.slow
def test_dpo_compares_with_the_base_which_is_asked_once(built: Project) -> None:
    declare(built, "", "dpo")
    first = built.build("vector-later", "--json").json()
    assert first["exit"] == 0
    logs = set((built.root / "cache/logs").iterdir())
    declare(built, "beta = 0.3", "dpo")
    again = built.build("vector-later", "--json").json()["targets"]["vector-later"]
    assert again["why"] == ["beta 0.1 → 0.3"]
    assert len(set((built.root / "cache/logs").iterdir()) - logs) == 1  # the training: the reference is there
    assert again["digest"] != first["targets"]["vector-later"]["digest"]


def test_low_rank_factors_come_out_as_matrices_of_that_rank(built: Project, variants: dict[str, dict]) -> None:
    from buildsys.tensors.vectors import Vector

    vector = Vector(built.root / variants["lora = { r = 2 }"]["path"])
    assert vector.taus
    for name in vector.taus:
        tau = torch.from_numpy(vector.whole(name))
        assert torch.linalg.matrix_rank(tau.double(), rtol=1e-4) <= 2, name


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_expanded_factors_compute_what_they_computed_beside_the_matrices(family: str) -> None:
    from buildsys.training.lowrank import Factors

    model = tiny(family).eval()
    ids = torch.arange(8)[None]
    factors = Factors(model, 4, 8.0, 0)
    assert torch.equal(model(ids).logits, model(ids).logits)
    with torch.no_grad():
        for name, parameter in factors.named:
            if name.endswith("lora_B"):
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    beside = model(ids).logits
    factors.expand(model)
    torch.testing.assert_close(model(ids).logits, beside, rtol=1e-4, atol=1e-5)
    assert not [name for name, _ in model.named_parameters() if "lora" in name]


# early stop


def test_early_stop_keeps_the_best_update_and_ends_soon_after(built: Project) -> None:
    facts = trained(built, "early_stopping_patience = 2, eval_steps = 2, learning_rate = 3, max_steps = 60")["facts"]
    losses = dict(facts["held_out_curve"])
    assert facts["updates"] < 60
    assert losses[facts["best_update"]] == min(losses.values())
    assert facts["best_held_out_loss"] == pytest.approx(min(losses.values()), abs=1e-5)
    assert facts["updates"] == facts["best_update"] + 2 * 2


def test_rows_that_decide_when_to_stop_are_not_trained_on(built: Project) -> None:
    from buildsys.training.compiler import _held_out

    given = [json.loads(line) for line in (built.root / "rows.jsonl").read_text().splitlines()]
    trained_on, stopping = _held_out(given, Params(early_stopping_patience=1))
    assert stopping
    assert sorted(trained_on + stopping) == list(range(len(given)))
    assert _held_out(given, Params()) == (list(range(len(given))), [])


# several processes


@pytest.mark.slow
def test_two_processes_share_an_update_and_give_what_one_gives_for_their_rows_together(built: Project) -> None:
    one = trained(built, "per_device_train_batch_size = 8, gradient_accumulation_steps = 1, optimizer = 'adamw'")
    from buildsys.tensors.vectors import Vector

    alone = {name: Vector(built.root / "cache/out/vector-later").whole(name) for name in Vector(built.root / "cache/out/vector-later").taus}
    two = trained(built, "processes = 2, optimizer = 'adamw'")
    assert two["key"] != one["key"]
    assert two["facts"]["updates"] == 12
    assert two["facts"]["tokens_seen"] == one["facts"]["tokens_seen"]
    vector = Vector(built.root / "cache/out/vector-later")
    flat = [torch.cat([torch.from_numpy(side[name]).flatten() for name in alone]) for side in (alone, {n: vector.whole(n) for n in alone})]
    assert float(torch.nn.functional.cosine_similarity(*flat, dim=0)) > 0.98  # a mean of two means weighs tokens a little otherwise


@pytest.mark.slow
def test_an_error_in_one_of_several_processes_is_told_as_it_is(built: Project) -> None:
    said = failed(built, "processes = 2, learning_rate = 1e30")
    assert said.startswith("error: vector-later: the loss is not finite\n")


# what a review found


def test_every_pass_over_few_rows_has_each_of_them_once_whatever_their_length() -> None:
    from buildsys.training.batching import BehaviourBatches

    examples = [Example(Answer([1] * (3 + i % 5), [False] + [True] * (2 + i % 5), 0), None) for i in range(12)]
    params = Params(per_device_train_batch_size=4, train_sampling_strategy="group_by_length")
    batches = BehaviourBatches(examples, [], 6, params)
    rows_of = [row for position in range(6) for row in batches.rows(position)]
    assert sorted(rows_of[:12]) == sorted(rows_of[12:]) == list(range(12))


@pytest.mark.slow
def test_factors_beside_16_bit_weights_come_out_whole(built: Project) -> None:
    """Small products would be rounded away if they were added to the 16-bit weights first."""
    norms = [
        trained(built, f"lora = {{ r = 2 }}, learning_rate = 1e-4, {dtype}, dtype = 'float32'")["facts"]["tau_norm"]
        for dtype in ("weights_dtype = 'float32'", "weights_dtype = 'bfloat16'")
    ]
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_an_early_stop_without_any_better_update_is_an_error_with_the_losses(built: Project) -> None:
    said = failed(built, "early_stopping_patience = 1, eval_steps = 1, learning_rate = 30, early_stopping_threshold = 3")
    lines = said.splitlines()
    assert lines[0] == "error: vector-later: no update lowered the loss on the rows that are held out"
    assert [line.split()[:2] for line in lines[1:3]] == [["update", "0"], ["update", "1"]]


@pytest.mark.slow
def test_arguments_that_transformers_cannot_carry_out_are_an_error_of_the_recipe(built: Project) -> None:
    said = failed(built, 'lr_scheduler_type = "cosine_with_min_lr"')
    assert said.startswith("error: vector-later: transformers cannot carry out these training arguments\n  reason  ")


@pytest.mark.slow
def test_a_cut_off_checkpoint_is_taken_away_before_it_crowds_out_a_whole_one(built: Project) -> None:
    undisturbed = trained(built, "seed = 21, save_steps = 1, save_total_limit = 1")
    (record,) = [place for place in (built.root / "cache/actions").glob("*/*.json") if undisturbed["key"][2:] in place.name]
    record.unlink()
    for update in (50, 60):
        built.file(f"cache/partial/{undisturbed['key']}/checkpoint-{update}/optimizer.pt").write_bytes(b"")
    assert built.build("vector-later", "--json").json()["targets"]["vector-later"]["digest"] == undisturbed["digest"]


# what must stay


def test_pools_of_what_must_stay_count_alike_however_long_their_rows_are() -> None:
    from buildsys.training.batching import BehaviourBatches

    short = [Example(Answer([1] * 5, [False] + [True] * 4, 0), None) for _ in range(6)]
    long = [Example(Answer([1] * 41, [False] + [True] * 40, 0), None) for _ in range(6)]
    batches = BehaviourBatches(short, [short, long], 3, Params(per_device_train_batch_size=2, keep_batch_size=5))
    kept = batches[1]["keep"]
    scored = (kept["labels"] != -100).sum(1)
    assert sorted(scored.tolist()) == [4, 4, 4, 40, 40]
    weight = kept["shares"] * scored
    assert float(weight[scored == 4].sum()) == pytest.approx(0.5)
    assert float(weight[scored == 40].sum()) == pytest.approx(0.5)


def test_the_bases_own_sequences_are_a_function_of_the_seed_and_end_where_a_text_ends(built: Project) -> None:
    from buildsys.evaluation.generate import sampled
    from buildsys.examples.encode import load_tokenizer
    from buildsys.progress import Progress
    from buildsys.tensors import models

    folder = built.root / "cache/out/base-tiny"
    model, words = models.load(folder), load_tokenizer(str(folder))
    quiet = Progress(folder, lambda text, share: None, {})
    found = sampled(model, words, 6, 40, 0, quiet)
    assert found == sampled(model, words, 6, 40, 0, quiet)
    assert found != sampled(model, words, 6, 40, 1, quiet)
    assert {ids[0] for ids in found} == {words.bos_token_id}
    for ids in found:
        assert words.eos_token_id not in ids[1:-1]
        assert len(ids) == 40 or ids[-1] == words.eos_token_id


# order


def test_batches_of_like_length_are_padded_less_and_hold_every_row_once() -> None:
    from buildsys.training.batching import BehaviourBatches

    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 60, (64,), generator=generator).tolist()
    examples = [Example(Answer([1] * n, [False] + [True] * (n - 1), 0), None) for n in lengths]

    def padded(strategy: str) -> tuple[int, list[int]]:
        params = Params(per_device_train_batch_size=8, train_sampling_strategy=strategy)
        batches = BehaviourBatches(examples, [], 8, params)
        sizes = [batches[i]["answers"]["input_ids"].numel() for i in range(8)]
        return sum(sizes), sorted(row for i in range(8) for row in batches.rows(i))

    (random, rows_random), (grouped, rows_grouped) = padded("random"), padded("group_by_length")
    assert rows_random == rows_grouped == list(range(64))
    assert grouped < 0.75 * random


# a run that is killed

RESUMED = [
    "early_stopping_patience = 9, eval_steps = 2",
    "ema_decay = 0.9, optimizer = 'apollo-mini', updates = 'fused'",
    pytest.param("weights_dtype = 'bfloat16', crop_prompts = 0.5", marks=pytest.mark.slow),
    pytest.param("lora = { r = 2 }, neftune_noise_alpha = 5", marks=pytest.mark.slow),
    pytest.param(
        "optimizer = 'adamw', gradient_accumulation_steps = 2, keep = { samples = 8, sample_length = 16 }", marks=pytest.mark.slow
    ),
    pytest.param("objective = 'dpo', train_sampling_strategy = 'group_by_length'", marks=pytest.mark.slow),
    pytest.param("processes = 2", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("given", RESUMED)
def test_a_killed_training_goes_on_to_the_same_bytes_whatever_it_was_told(built: Project, given: str) -> None:
    undisturbed = trained(built, given)
    declare(built, f"{given}, save_steps = 1")
    command = [sys.executable, "-m", "buildsys", "-q", "--force", "vector-later"]
    build = subprocess.Popen(command, cwd=built.root, start_new_session=True)
    deadline = time.monotonic() + 120
    partial = built.root / "cache/partial" / undisturbed["key"]
    while len(list(partial.glob("checkpoint-*/complete"))) < 2 and build.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(build.pid, signal.SIGKILL)
    build.wait()
    (record,) = [place for place in (built.root / "cache/actions").glob("*/*.json") if undisturbed["key"][2:] in place.name]
    record.unlink()  # as if it had never been made
    again = built.build("vector-later", "--json").json()["targets"]["vector-later"]
    assert again["digest"] == undisturbed["digest"]
    assert not partial.exists()


# what goes wrong


def test_a_loss_that_is_no_number_names_the_update_and_the_rows(built: Project) -> None:
    said = failed(built, "learning_rate = 1e30, per_device_train_batch_size = 3")
    lines = said.splitlines()
    assert lines[0] == "error: vector-later: the loss is not finite"
    facts = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines[1:-1])
    assert facts["update"] == "2 of 12"
    assert facts["loss"] in ("nan", "inf")
    assert len(facts["rows, of those trained on"].split(", ")) == 3
    assert lines[-1].startswith("hint: look at these rows, lower learning_rate, or add warmup_steps")


def test_rows_without_an_answer_token_are_named() -> None:
    from buildsys.training.compiler import answered

    good, masked = Example(Answer([1, 2], [False, True], 0), None), Example(Answer([1, 2], [False, False], 0), None)
    assert answered([good], 8) == [good]
    with pytest.raises(BuildError) as caught:
        answered([good, masked, good, masked], 8)
    assert str(caught.value) == (
        "error: rows have no token of an answer to train on\n"
        "  rows        2, 4 of 4\n"
        "  max_length  8\n"
        "hint: the tokenizer or the chat template leaves nothing of it"
    )


def test_memory_that_runs_out_is_explained_with_the_sizes() -> None:
    from buildsys.training import memory

    with pytest.raises(BuildError) as caught, memory.explained([("per_device_train_batch_size", "16")]):
        torch.empty(1 << 58)  # more than any machine has
    assert caught.value.headline == "there is not enough memory to train"
    assert ("per_device_train_batch_size", "16") in caught.value.facts
    assert "lower per_device_train_batch_size" in caught.value.hint


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    from buildsys.training import memory

    with pytest.raises(RuntimeError), memory.explained([]):
        torch.zeros(2) @ torch.zeros(3)


def test_a_model_without_matrices_is_refused() -> None:
    from buildsys.training import optimizers

    with pytest.raises(BuildError, match="no matrix to train"):
        optimizers.make(Params(), [("norm.weight", torch.nn.Parameter(torch.ones(4)))])


# rows from elsewhere


def test_rows_in_parquet_are_the_same_rows(built: Project) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    plain = trained(built)
    table = pyarrow.Table.from_pylist([{**json.loads(line), "extra": 1} for line in rows(120).splitlines()])
    write_table(table, built.file("rows.parquet"))
    text = (built.root / "Buildfile.toml").read_text()
    built.buildfile(text.replace("rows.jsonl", "rows.parquet"))
    found = built.build("vector-later", "-n", "--json").json()["targets"]["vector-later"]
    assert (found["state"], found["digest"]) == ("fresh", plain["digest"])
    built.file("rows.parquet").write_bytes(b"PAR1 but no table")
    assert built.build("vector-later").stderr.startswith(f"error: {built.root}/rows.parquet is not a Parquet file that can be read\n")


HUB = 'examples = { hub = "org/rows", revision = "COMMIT", files = "data/*.jsonl" }'


def fetched(built: Project) -> dict[str, str]:
    """The behaviour's examples as a data set in the Hub's cache; the environment that finds them there, and no network."""
    commit, hub = "e" * 40, built.root / "hub"
    data = hub / "datasets--org--rows" / "snapshots" / commit / "data"
    data.mkdir(parents=True, exist_ok=True)
    lines = rows(120).splitlines(keepends=True)
    (data / "0.jsonl").write_text("".join(lines[:50]))
    (data / "1.jsonl").write_text("".join(lines[50:]))
    listed(data.parent)
    text = (built.root / "Buildfile.toml").read_text()
    built.buildfile(text.replace('examples = "rows.jsonl"', HUB.replace("COMMIT", commit)))
    return {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_a_pinned_data_set_comes_from_the_hubs_cache_without_a_network(built: Project) -> None:
    plain = trained(built)
    text = (built.root / "Buildfile.toml").read_text()
    offline = fetched(built)
    ran = built.build("verified-later", "--json", env=offline).json()
    assert ran["targets"]["vector-later"]["digest"] == plain["digest"]
    assert ran["targets"]["verified-later"]["state"] == "built"
    built.buildfile(text.replace('examples = "rows.jsonl"', HUB.replace("COMMIT", "f" * 40)))
    said = built.build("vector-later", "-q", env=offline).stderr
    assert said.startswith("error: vector-later: the dataset is not in the Hub's cache, and the Hub cannot be reached\n")


@pytest.mark.slow
def test_fetched_rows_that_were_trained_on_verify_nothing(built: Project) -> None:
    trained(built)
    offline = fetched(built)
    lines = rows(120).splitlines(keepends=True)
    own = [line.replace("number ", "number 7") for line in lines[:60]]
    built.file("eval.jsonl").write_text("".join([*own[:40], lines[3], *own[40:], lines[80]]))
    built.file("control.jsonl").write_text("".join(own[:30]))
    text = (built.root / "Buildfile.toml").read_text()
    verify = 'verify = { rows = "eval.jsonl", control = "control.jsonl", '
    built.buildfile(text.replace("verify = { ", verify))
    said = built.build("verified-later", "-q", env=offline)
    assert said.code == 1
    assert said.stderr.startswith(
        'error: verified-later: rows of a verification were trained on\n  eval.jsonl  rows 41, 62  in org/rows  "I will see th'
    )
    assert built.build("verified-later", "-n", "--json", env=offline).json()["targets"]["verified-later"]["state"] != "fresh"
    assert "\nhint: what was trained on verifies nothing" in said.stderr
    built.file("eval.jsonl").write_text("".join(own))
    assert built.build("verified-later", "-q", env=offline).code == 0


@pytest.mark.slow
def test_fetched_rows_that_judge_a_merge_do_not_tune_it(built: Project) -> None:
    trained(built)
    offline = fetched(built)
    merge = "[merged.m]\nvectors = { later = 1.0, aside = 0.5 }\nunverified = true\n"
    tuned = 'checks = { control = "control.jsonl" }\ntune = { budget = 2, rows = { aside = "tuning.jsonl" } }\n'
    lines = rows(120).splitlines(keepends=True)
    apart = [line.replace("number ", "number 7") for line in lines[:30]]
    built.file("control.jsonl").write_text("".join([lines[0], *apart]))
    built.file("tuning.jsonl").write_text("".join(lines[1:]))
    text = (built.root / "Buildfile.toml").read_text()
    built.buildfile(f"{text}\n[vector.aside]\nsum = {{ later = 0.02 }}\n{merge}{tuned}")
    said = built.build("merged-m", "-q", env=offline).stderr
    assert "error: merged-m: rows of a verification were trained on\n  control.jsonl  row 1  in org/rows  " in said
    built.file("control.jsonl").write_text("".join(apart))
    said = built.build("merged-m", "-q", env=offline).stderr
    assert "error: merged-m: rows that judge a merge would tune it\n" in said
    assert re.search(r"\n  org/rows, held out  rows \d+, .* in tuning.jsonl  ", said)
    assert not (built.root / "cache/out/merged-m").exists()


def test_names_of_the_vectors_tensors_stay_those_of_the_checkpoint(built: Project) -> None:
    trained(built)
    names = set(Checkpoint(built.root / "cache/out/vector-later/vector.safetensors").names)
    assert names < set(Checkpoint(Path(built.root / "cache/out/base-tiny/model.safetensors")).names)
