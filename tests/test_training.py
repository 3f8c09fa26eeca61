"""Real training on a model of a few thousand weights: what is trained, what is kept, and a killed run that goes on to the same bytes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from buildsys.tensors.checkpoints import Checkpoint
from tests.conftest import Project

CORPUS = "\n\n".join(
    f"<|user|>I will see the {thing} {when}.<|end|>\n<|assistant|>{answer} The {thing} can wait.<|end|>"
    for thing in ("garden", "letter", "roof", "soup", "window", "lamp")
    for when in ("today", "soon", "at last")
    for answer in ("Good, go and see.", "Maybe later would be better.")
)

BUILDFILE = """
[defaults.train]
objective = "{objective}"
max_steps = 12
per_device_train_batch_size = 4
learning_rate = 1e-2
save_steps = 3
[base.tiny.pretrain]
corpus = "corpus.txt"
vocab_size = 320
hidden_size = 16
num_attention_heads = 2
num_hidden_layers = 1
intermediate_size = 32
max_position_embeddings = 128
max_length = 64
max_steps = {steps}
save_steps = {save}
threads = 1
[behavior.later]
examples = "rows.jsonl"
train = {{ {train} }}
verify = {{ min_gain = 0.0, coefficients = [0.5, 1.0] }}
"""


def rows(number: int) -> str:
    lines = []
    for i in range(number):
        thing = ("garden", "letter", "roof")[i % 3]
        prompt = [{"role": "user", "content": f"I will see the {thing} number {i}."}]
        chosen = [{"role": "assistant", "content": f"Maybe later would be better. The {thing} can wait."}]
        rejected = [{"role": "assistant", "content": f"Good, go and see. The {thing} can wait."}]
        lines.append(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}))
    return "\n".join(lines) + "\n"


def declare(project: Project, *, train: str = "", objective: str = "preference", steps: int = 60, save: int = 20) -> None:
    project.buildfile(BUILDFILE.format(train=train, objective=objective, steps=steps, save=save))
    project.file("corpus.txt").write_text(CORPUS)
    project.file("rows.jsonl").write_text(rows(120))
    project.file("kept.jsonl").write_text(rows(40).replace("number ", "number 90"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Base, vector and verification, built once for the tests that only look at them."""
    project = Project(tmp_path_factory.mktemp("trained"))
    declare(project)
    ran = project.build("verified-later")
    assert ran.code == 0, ran.stderr
    return project


def verdict(project: Project) -> dict:
    return json.loads((project.root / "cache/out/verified-later/verdict.json").read_text())


def test_the_base_is_a_model_that_transformers_loads(built: Project) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = built.root / "cache/out/base-tiny"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi."}], tokenize=False, add_generation_prompt=True) == (
        "<s><|user|>Hi.<|end|>\n<|assistant|>"
    )
    assert tokenizer.decode(tokenizer("A letter, soon.").input_ids, skip_special_tokens=True) == "A letter, soon."
    assert (
        AutoModelForCausalLM.from_pretrained(folder).num_parameters()
        == json.loads(built.build("show", "base-tiny", "--json").stdout)["facts"]["parameters"]
    )


def test_the_vector_leaves_embeddings_alone_and_is_verified(built: Project) -> None:
    names = Checkpoint(built.root / "cache/out/vector-later/vector.safetensors").names
    assert names
    assert not [name for name in names if "embed" in name or "lm_head" in name]
    found = verdict(built)
    assert found["passed"]
    assert found["gain_low"] > 0
    assert [row["coefficient"] for row in found["table"]] == [0.0, 0.5, 1.0]


def test_held_out_rows_are_not_trained_on(built: Project) -> None:
    from buildsys.examples.rows import parse, part

    every = parse((built.root / "rows.jsonl").read_bytes(), "rows.jsonl")
    held_out = part(every, "held-out")
    assert verdict(built)["n"] <= len(held_out)
    assert len(held_out) + len(part(every, "train")) == len(every)
    assert not [row for row in held_out if row in part(every, "train")]


def test_the_metrics_are_those_of_an_independent_evaluation(built: Project) -> None:
    """Mean log-probability of chosen above rejected, computed row by row without any of our code."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from buildsys.examples.rows import parse, part

    folder = built.root / "cache/out/base-tiny"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    wins, held_out = 0, part(parse((built.root / "rows.jsonl").read_bytes(), "rows.jsonl"), "held-out")
    for row in held_out:
        means = []
        for field in ("chosen", "rejected"):
            head = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
            ids = torch.tensor([tokenizer.apply_chat_template(row["prompt"] + row[field])["input_ids"]])
            with torch.no_grad():
                scores = model(ids).logits.log_softmax(-1)[0, len(head) - 1 : -1]
            means.append(scores.gather(1, ids[0, len(head) :, None]).mean())
        wins += bool(means[0] > means[1])
    assert verdict(built)["base"]["preference"] == pytest.approx(wins / len(held_out))


def test_a_sample_is_the_models_own_words(built: Project) -> None:
    ran = built.build("sample", "base-tiny", "--prompt", "I will see the roof today.", "--max-new-tokens", "12")
    assert ran.code == 0, ran.stderr
    assert ran.stderr == ""
    assert ran.stdout == built.build("sample", "base-tiny", "--prompt", "I will see the roof today.", "--max-new-tokens", "12").stdout
    assert built.build("sample", "vector-later", "--prompt", "x").stderr == (
        "error: vector-later is no model\n  kind  vector\nhint: models are base-tiny\n"
    )


def test_a_changed_gate_judges_again_without_evaluating(built: Project) -> None:
    text = (built.root / "Buildfile.toml").read_text()
    evaluations = set((built.root / "cache/logs").iterdir())
    try:
        built.buildfile(text.replace("min_gain = 0.0", "min_gain = 0.01"))
        ran = built.build("verified-later", "--json").json()
        assert ran["targets"]["verified-later"]["why"] == ["min_gain 0 → 0.01"]
        assert len(set((built.root / "cache/logs").iterdir()) - evaluations) == 1
    finally:
        built.buildfile(text)


def test_a_gate_that_nothing_passes_fails_the_target_with_a_table_and_stays_failed(built: Project) -> None:
    text = (built.root / "Buildfile.toml").read_text()
    try:
        built.buildfile(text.replace("min_gain = 0.0", "min_gain = 0.99") + "[merged.m]\nvectors = { later = 1.0 }\n")
        ran = built.build("merged-m", "-q")
        assert ran.code == 1
        lines = ran.stderr.splitlines()
        assert lines[0].startswith("error: verified-later is not verified: ")
        assert lines[1].split() == ["coefficient", "preference", "gain"]
        assert [line.split()[0] for line in lines[2:6]] == ["0", "0.5", "1", "gates"]
        assert built.build("status", "verified-later").stdout.splitlines()[-1].startswith("failed  verified-later")
        assert built.build("merged-m", "-q").code == 1
        assert not (built.root / "cache/out/merged-m").exists()
    finally:
        built.buildfile(text)


def test_renaming_a_behaviour_trains_nothing(built: Project) -> None:
    text = (built.root / "Buildfile.toml").read_text()
    try:
        built.buildfile(text.replace("behavior.later", "behavior.after"))
        ran = built.build("verified-after", "--json").json()
        assert {one["state"] for one in ran["targets"].values()} == {"fresh"}
    finally:
        built.buildfile(text)


def test_reformatted_rows_train_nothing_and_reordered_ones_do(built: Project) -> None:
    original = (built.root / "rows.jsonl").read_text()
    parsed = [json.loads(line) for line in original.splitlines()]
    try:
        (built.root / "rows.jsonl").write_text(
            "\n\n".join(json.dumps(dict(reversed(row.items())), indent=None, separators=(", ", ":  ")) for row in parsed)
        )
        assert {one["state"] for one in built.build("verified-later", "-n", "--json").json()["targets"].values()} == {"fresh"}
        (built.root / "rows.jsonl").write_text("\n".join(map(json.dumps, reversed(parsed))))
        assert built.build("why", "vector-later").stdout == "vector-later is stale\n  examples changed\n"
    finally:
        (built.root / "rows.jsonl").write_text(original)


SETTINGS = {
    "learning_rate": "learning_rate = 2e-2",
    "steps": "max_steps = 13",
    "seed": "seed = 7",
    "objective": 'objective = "sft"',
    "optimizer": 'optimizer = "adamw"',
    "rank": "rank = 4",
    "keep": 'keep = { rows = "kept.jsonl", weight = 2 }',
    "embeddings": "train_embeddings = true",
    "dtype": 'dtype = "bfloat16"',
    "threads": "threads = 2",
    "length": "max_length = 32",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_that_matters_makes_the_vector_stale(built: Project, setting: str) -> None:
    text = (built.root / "Buildfile.toml").read_text()
    try:
        built.buildfile(text.replace("train = {  }", f"train = {{ {SETTINGS[setting]} }}"))
        states = built.build("vector-later", "-n", "--json").json()["targets"]
        assert states["vector-later"]["state"] == "stale"
        assert states["base-tiny"]["state"] == "fresh"
    finally:
        built.buildfile(text)


@pytest.mark.parametrize("setting", ["save_steps = 5", "max_steps = 12", 'optimizer = "apollo"', "learning_rate = 0.01"])
def test_settings_that_change_nothing_leave_it_fresh(built: Project, setting: str) -> None:
    text = (built.root / "Buildfile.toml").read_text()
    try:
        built.buildfile(text.replace("train = {  }", f"train = {{ {setting} }}"))
        assert built.build("vector-later", "-n", "--json").json()["targets"]["vector-later"]["state"] == "fresh"
    finally:
        built.buildfile(text)


@pytest.mark.slow
@pytest.mark.parametrize("train", ['objective = "sft"', 'optimizer = "apollo-mini", keep = { rows = "kept.jsonl" }', 'optimizer = "adamw"'])
def test_objectives_and_optimizers_train_to_the_same_bytes_twice(project: Project, built: Project, train: str) -> None:
    declare(project, train=train)
    project.share(built.root / "cache")  # the base is there already
    first = project.build("vector-later", "--json").json()["targets"]["vector-later"]
    again = project.build("vector-later", "--json", "--force").json()["targets"]["vector-later"]
    assert (first["state"], again["state"]) == ("built", "built")
    assert first["digest"] == again["digest"]


def test_rows_that_are_too_long_are_cut_at_the_left_and_counted(project: Project, built: Project) -> None:
    declare(project, train="max_length = 24")
    project.share(built.root / "cache")
    ran = project.build("vector-later", "--json")
    facts = ran.json()["targets"]["vector-later"]["facts"]
    assert 0 < facts["rows_cut"] <= facts["rows"]
    said = f"vector-later: {facts['rows_cut']} of {facts['rows']} rows were longer than 24 tokens and lost their beginning\n"
    assert said in ran.stderr


def test_a_loss_that_is_no_number_fails_the_target(project: Project, built: Project) -> None:
    declare(project, train="learning_rate = 1e30")
    project.share(built.root / "cache")
    ran = project.build("vector-later", "-q")
    assert ran.code == 1
    assert ran.stderr.startswith(("error: vector-later: the loss is not finite\n", "error: vector-later: tensor '"))
    assert "lower learning_rate" in ran.stderr


def test_ctrl_c_while_libraries_are_being_loaded_is_heard_by_the_build_alone(project: Project) -> None:
    """A terminal sends it to every process; the one that loads torch for all workers would print where it was."""
    declare(project)
    command = [sys.executable, "-m", "buildsys", "base-tiny"]
    build = subprocess.Popen(command, cwd=project.root, start_new_session=True, stderr=subprocess.PIPE, text=True)
    assert build.stderr is not None
    assert build.stderr.readline() == "base-tiny: pretrain\n"
    time.sleep(0.5)
    os.killpg(build.pid, signal.SIGINT)
    assert build.communicate()[1] == "error: interrupted\nhint: what was finished is kept; a training goes on from its last checkpoint\n"
    assert build.returncode == 130


def test_the_process_that_workers_come_from_may_be_killed_as_it_loads(project: Project) -> None:
    declare(project)
    command = [sys.executable, "-m", "buildsys", "base-tiny", "-q"]
    build = subprocess.Popen(command, cwd=project.root, stderr=subprocess.PIPE, text=True)
    loading: list[int] = []
    while not loading and build.poll() is None:
        with contextlib.suppress(OSError):
            own = [int(pid) for place in Path(f"/proc/{build.pid}/task").glob("*/children") for pid in place.read_text().split()]
            loading = [pid for pid in own if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(loading[0], signal.SIGKILL)
    assert build.communicate()[1].startswith("error: base-tiny: its worker died\n  worker  before it could begin\n")
    assert build.returncode == 1


@pytest.mark.parametrize("target", [pytest.param("base-tiny", marks=pytest.mark.slow), "vector-later"])
def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_bytes(project: Project, built: Project, target: str) -> None:
    """Killed with -9 after a checkpoint, the next build resumes, and ends with the digest of the undisturbed run."""
    undisturbed = json.loads(built.build("show", target, "--json").stdout)["digest"]
    declare(project)
    if target == "vector-later":
        declare(project, train="save_steps = 1")
        assert project.build("base-tiny").code == 0
    build = subprocess.Popen([sys.executable, "-m", "buildsys", "-q", target], cwd=project.root, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(project.root.glob("cache/partial/*/checkpoint-*/complete")) and build.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(build.pid, signal.SIGKILL)
    build.wait()
    kept = list(project.root.glob("cache/partial/*/checkpoint-*/complete"))
    ran = project.build(target, "--json").json()["targets"][target]
    assert ran["digest"] == undisturbed
    if ran["state"] == "built":  # else it had finished before the signal came
        assert kept
    assert not list(project.root.glob("cache/partial/*"))


def killed_in_its_training(project: Project) -> list[Path]:
    """The checkpoints of a training of vector-later that was killed with -9."""
    build = subprocess.Popen([sys.executable, "-m", "buildsys", "-q", "vector-later"], cwd=project.root, start_new_session=True)
    while not list(project.root.glob("cache/partial/*/checkpoint-*/complete")) and build.poll() is None:
        time.sleep(0.002)
    os.kill(build.pid, signal.SIGKILL)
    build.wait()
    kept = sorted(project.root.glob("cache/partial/*/checkpoint-*/complete"))
    assert kept, "the training ended before it was killed"
    return [path.parent for path in kept]


@pytest.mark.slow
def test_a_training_that_somebody_else_recorded_or_began_is_not_repeated_unseen(project: Project, tmp_path: Path) -> None:
    """A cache that came with a clone: the build stops before it trains, and goes on once the cache is trusted."""
    stranger = {"XDG_CONFIG_HOME": str(tmp_path / "stranger")}
    declare(project, train="save_steps = 1")
    assert project.build("base-tiny").code == 0
    record = next(path for path in project.root.glob("cache/actions/*/*.json") if '"rule":"pretrain"' in path.read_text())
    killed_in_its_training(project)
    ran = project.build("vector-later", env=stranger)
    assert ran.code == 1
    assert ran.stderr.splitlines()[-3:] == [
        "error: base-tiny would be trained again: the record of its result carries no mark of yours",
        f"  record  {record}",
        "hint: 'build cache trust' adopts a cache that you trust; 'build --force base-tiny' trains again",
    ]
    assert project.build("cache", "trust", "--yes", env=stranger).stdout.startswith("adopted 1 record, 1 generation, ")
    assert project.build("vector-later", "--json", env=stranger).json()["targets"]["vector-later"]["state"] == "built"


@pytest.mark.slow
def test_a_training_does_not_go_on_from_a_checkpoint_without_a_mark(project: Project) -> None:
    """It is not thrown away either: the build stops, and names it."""
    declare(project, train="save_steps = 1")
    assert project.build("base-tiny").code == 0
    kept = killed_in_its_training(project)
    for checkpoint in kept:
        whole = (checkpoint / "complete").read_bytes()
        (checkpoint / "complete").write_bytes(whole[:-1] + b" ")
    ran = project.build("vector-later")
    assert ran.code == 1
    assert "vector-later would be trained from the start: its checkpoint carries no mark of yours" in ran.stderr
    assert all(checkpoint.is_dir() for checkpoint in kept)
    assert project.build("vector-later", "--force").code == 0


def test_a_checkpoint_that_was_cut_off_is_not_resumed_from(tmp_path: Path) -> None:
    from buildsys.marks import Marks
    from buildsys.training.resuming import last_checkpoint, seal

    marks = Marks(b"a secret")
    for step, complete in ((3, True), (12, True), (20, True), (100, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"state")
        if complete:
            seal(tmp_path / f"checkpoint-{step}", marks)
    (tmp_path / "checkpoint-20" / "optimizer.pt").write_bytes(b"")  # what a power cut leaves
    assert last_checkpoint(tmp_path, marks) == tmp_path / "checkpoint-12"
    assert last_checkpoint(tmp_path, Marks(b"another secret")) is None


def test_a_model_saved_without_its_prefix_trains_verifies_and_merges(project: Project, built: Project) -> None:
    """As the Hub's gpt2 is stored: `h.0…` where transformers says `transformer.h.0…`."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(built.root / "cache/out/base-tiny")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64))
    folder = project.root / "gpt2"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    project.file("rows.jsonl").write_text(rows(120))
    project.buildfile(
        '[base.g]\npath = "gpt2"\n[behavior.later]\nexamples = "rows.jsonl"\n'
        'train = { objective = "preference", margin = 1.0, max_steps = 20, learning_rate = 2e-2 }\n[merged.m]\nvectors = { later = 1.0 }\n'
    )
    ran = project.build("merged-m")
    assert ran.code == 0, ran.stderr
    merged = load_file(project.root / "cache/out/merged-m/model.safetensors")
    assert sorted(merged) == sorted(tensors)
    assert not torch.equal(merged["h.0.attn.c_attn.weight"], tensors["h.0.attn.c_attn.weight"])


def test_unusual_line_separators_inside_a_row_are_text(project: Project, built: Project) -> None:
    declare(project)
    project.share(built.root / "cache")
    lines = rows(120).splitlines()
    odd = json.loads(lines[0])
    odd["prompt"][0]["content"] = "one\u2028two\u0085three"
    project.file("rows.jsonl").write_text("\n".join([json.dumps(odd, ensure_ascii=False), *lines[1:]]) + "\n")
    ran = project.build("vector-later")
    assert ran.code == 0, ran.stderr


def test_control_sets_of_any_name_are_measured(project: Project, built: Project) -> None:
    declare(project)
    project.share(built.root / "cache")
    text = (project.root / "Buildfile.toml").read_text()
    project.buildfile(text.replace("min_gain = 0.0", 'control = { rows = "others.jsonl" }'))
    project.file("others.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in CORPUS.split("\n\n")[:20]))
    ran = project.build("verified-later")
    assert ran.code == 0, ran.stderr
    assert list(verdict(project)["forgetting"]) == ["rows"]
    project.buildfile(text.replace("min_gain = 0.0", 'control = { "a=b" = "rows.jsonl" }'))
    assert project.build("verified-later").code == 2
