"""Snapshots of the Hub: whole ones are taken, partial ones are never recorded, and the command that completes them is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import checkpoint, tokenizer
from tests.conftest import Project
from tests.hub import COMMIT, absent, listed, offline, snapshot

MODEL = f'[base.m]\nhub = "org/name"\nrevision = "{COMMIT}"\n'
WORDS = [f"w{i}" for i in range(40)]
OPTIONAL = ("generation_config.json", "special_tokens_map.json", "chat_template.jinja")
COMPLETE = f"hint: complete it: hf download org/name --revision {COMMIT}"


@pytest.fixture
def model(project: Project) -> Path:
    """A whole snapshot of a model with two shards, of which nobody noted that it is whole."""
    folder = snapshot(project.root / "hub", "org/name")
    for shard in ("model-1", "model-2"):
        checkpoint(folder, {shard: [1.0]})
        (folder / "model.safetensors").rename(folder / f"{shard}.safetensors")
    shards = {shard: f"{shard}.safetensors" for shard in ("model-1", "model-2")}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    tokenizer(folder, WORDS)
    project.buildfile(MODEL)
    return folder


def built(project: Project) -> str:
    """What is said against the base, "" where it was built."""
    return str(project.build("base-m", "--json", env=offline(project.root / "hub")).json()["targets"]["base-m"].get("error") or "")


def test_a_snapshot_that_its_download_listed_is_taken(project: Project, model: Path) -> None:
    listed(model)
    assert built(project) == ""


MISSING = ["config.json", "model-2.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]


def test_a_snapshot_that_lacks_a_listed_file_is_not_recorded_until_it_has_it(project: Project, model: Path) -> None:
    listed(model)
    for name in MISSING:
        (model / name).rename(project.root / "aside")
        facts = f"  model     org/name\n  revision  {COMMIT}\n  missing   {name}\n"
        assert built(project) == f"error: the model in the Hub's cache is not complete\n{facts}{COMPLETE}", name
        (project.root / "aside").rename(model / name)
    assert built(project) == ""


def test_a_truncated_file_is_missing(project: Project, model: Path) -> None:
    listed(model)
    (model / "tokenizer.json").write_text((model / "tokenizer.json").read_text()[:-5])
    assert "\n  missing   tokenizer.json\n" in built(project)


def test_without_a_list_the_cache_may_say_that_the_rest_does_not_exist(project: Project, model: Path) -> None:
    absent(model, *OPTIONAL)
    assert built(project) == ""


@pytest.mark.slow
def test_without_a_list_what_is_not_there_may_be_missing(project: Project, model: Path) -> None:
    facts = (
        f"  model      org/name\n  revision   {COMMIT}\n  not there  generation_config.json, special_tokens_map.json, chat_template.jinja\n"
    )
    assert built(project) == f"error: the model in the Hub's cache cannot be shown to be complete\n{facts}{COMPLETE}"
    absent(model, *OPTIONAL)
    for name in MISSING:
        (model / name).rename(project.root / "aside")
        unseen = "model.safetensors" if name == "model.safetensors.index.json" else name
        assert f"  not there  {unseen}" in built(project)
        (project.root / "aside").rename(model / name)


def test_a_list_that_is_damaged_is_no_list(project: Project, model: Path) -> None:
    listed(model)
    (model.parents[1] / "trees" / f"{COMMIT}.json").write_text("{")
    assert "cannot be shown to be complete" in built(project)


EXAMPLES = '[base.m]\npath = "base"\n[behavior.b]\nexamples = {{ hub = "org/rows", revision = "{commit}", files = "{files}" }}\n'


@pytest.fixture
def rows(project: Project) -> Path:
    folder = snapshot(project.root / "hub", "org/rows", kind="dataset")
    for name in ("0", "1"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": f"row {name} {i}"}) + "\n" for i in range(20)))
    checkpoint(project.root / "base", {"a": [1.0]}, {"architectures": []})
    project.buildfile(EXAMPLES.format(commit=COMMIT, files="*.jsonl"))
    return folder


def fetched(project: Project) -> str:
    """What is said against the data set, "" where it was fetched: its training is skipped, since the base is refused."""
    ran = project.build("vector-b", "-k", "--json", env=offline(project.root / "hub")).json()["targets"]["vector-b"]
    return "" if ran["state"] == "skipped" else str(ran["error"])


@pytest.mark.slow  # loads torch for the training that is skipped
def test_rows_of_a_snapshot_that_lacks_a_listed_file_are_not_recorded(project: Project, rows: Path) -> None:
    listed(rows)
    (rows / "1.jsonl").rename(project.root / "aside")
    facts = f"  dataset   org/rows\n  revision  {COMMIT}\n  missing   1.jsonl\n"
    hint = f"hint: complete it: hf download org/rows --repo-type dataset --revision {COMMIT}"
    assert fetched(project) == f"error: the dataset in the Hub's cache is not complete\n{facts}{hint}"
    (project.root / "aside").rename(rows / "1.jsonl")
    assert fetched(project) == ""


def unproven(project: Project, pattern: str) -> str:
    """The files that are not there, as its error names them."""
    code = f"from buildsys import hub; hub.snapshot('dataset', 'org/rows', '{COMMIT}', ['{pattern}'])"
    env = {**os.environ, **offline(project.root / "hub")}
    ran = subprocess.run(
        [sys.executable, "-c", f"try: exec({code!r})\nexcept Exception as error: print(error)"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return next((line.split()[-1] for line in ran.stdout.splitlines() if line.startswith("  not there")), ran.stdout)


def test_without_a_list_a_pattern_is_proven_by_nothing_and_a_name_by_its_file(project: Project, rows: Path) -> None:
    assert unproven(project, "*.jsonl") == "*.jsonl"
    assert unproven(project, "1.jsonl") == ""
    (rows / "1.jsonl").unlink()
    assert unproven(project, "1.jsonl") == "1.jsonl"
