"""Models that exist already: what is taken, by reference, and what is refused, with the tensor and both sides."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file

from buildsys.tensors.checkpoints import Checkpoint
from tests.checkpoints import CONFIG, checkpoint
from tests.conftest import Project
from tests.hub import listed

BUILDFILE = """
[base.one]
path = "one"
[vector.formal]
path = "formal"
[merged.v1]
vectors = { formal = 0.5 }
unverified = ["formal"]
"""


@pytest.fixture
def declared(project: Project) -> Project:
    project.buildfile(BUILDFILE)
    checkpoint(project.root / "one", {"a": [1, 2], "b": [3]})
    checkpoint(project.root / "formal", {"a": [2, 2], "b": [5]})
    return project


def test_a_vector_by_reference_is_a_record_and_merges(declared: Project) -> None:
    ran = declared.build("merged-v1")
    assert ran.code == 0, ran.stderr
    record = json.loads((declared.root / "cache/out/vector-formal/vector.json").read_text())
    assert sorted(record) == ["base", "dtype", "model"]
    found = load_file(declared.root / "cache/out/merged-v1/model.safetensors")
    assert found["a"].tolist() == [1.5, 2]
    assert found["b"].tolist() == [4]
    assert (declared.root / "cache/out/base-one/model.safetensors").is_symlink()
    assert "| formal | 0.5 |" in (declared.root / "cache/out/merged-v1/README.md").read_text()


def test_a_model_is_not_copied_into_the_store(declared: Project) -> None:
    declared.build("base-one")
    assert not list((declared.root / "cache/objects").rglob("*/*"))


def test_a_changed_coefficient_merges_again_and_nothing_else(declared: Project) -> None:
    declared.build("merged-v1")
    declared.buildfile(BUILDFILE.replace("0.5", "1.0"))
    assert declared.build("why", "merged-v1").stdout == "merged-v1 is stale\n  coefficient of formal 0.5 → 1\n"
    ran = declared.build("merged-v1", "--json").json()
    assert {name: one["state"] for name, one in ran["targets"].items()} == {
        "base-one": "fresh",
        "vector-formal": "fresh",
        "merged-v1": "built",
    }
    assert ran["targets"]["merged-v1"]["why"] == ["coefficient of formal 0.5 → 1"]


def test_renamed_and_moved_models_rebuild_nothing(declared: Project) -> None:
    declared.build("merged-v1")
    (declared.root / "formal").rename(declared.root / "elsewhere")
    declared.buildfile(
        BUILDFILE.replace('"formal"\n', '"elsewhere"\n', 1)
        .replace("vector.formal", "vector.stiff")
        .replace("formal = 0.5", "stiff = 0.5")
        .replace('["formal"]', '["stiff"]')
    )
    ran = declared.build("merged-v1", "--json").json()
    assert {one["state"] for one in ran["targets"].values()} == {"fresh"}


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (
        _truncate,
        "error: base-one: the checkpoint is truncated\n  file      {folder}/model.safetensors\n  has       {size} bytes\n  expected  {full} bytes\n",
    ),
    "cut header": (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10"), "error: base-one: the checkpoint is truncated\n"),
    "no safetensors": (
        lambda folder: (folder / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"what"),
        "error: base-one: the file is not a safetensors file\n",
    ),
    "pickled": (
        _pickle,
        "error: base-one: the weights are pickled, and a pickle can run code\n  folder  {folder}\n  file    pytorch_model.bin\n",
    ),
    "no causal model": (
        lambda folder: checkpoint(folder, {"a": [1]}, {"architectures": ["BertForSequenceClassification"]}),
        "error: base-one: the base is not a causal language model\n  folder        {folder}\n  architecture  BertForSequenceClassification\n",
    ),
    "own code": (
        lambda folder: checkpoint(folder, {"a": [1]}, {**CONFIG, "auto_map": {"AutoModel": "x.y"}}),
        "error: base-one: the model needs code of its own, which is never run\n",
    ),
    "not a number": (
        lambda folder: checkpoint(folder, {"a": [1, float("nan")]}),
        "error: base-one: tensor 'a' is not finite\n  file      {folder}/model.safetensors\n  first at  entry 1\n",
    ),
    "infinity": (lambda folder: checkpoint(folder, {"a": [float("-inf")]}), "error: base-one: tensor 'a' is not finite\n"),
    "missing shard": (
        lambda folder: (
            (folder / "model.safetensors")
            .rename(folder / "model.safetensors.index.json")
            .write_text('{"weight_map": {"a": "model-00001.safetensors"}}')
        ),
        "error: base-one: a shard is missing\n",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "error: base-one: the folder is not a model\n"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_base_fails_its_target_and_leaves_nothing(declared: Project, name: str) -> None:
    breaks, message = BROKEN[name]
    folder = declared.root / "one"
    breaks(folder)
    ran = declared.build("base-one", "-q")
    assert ran.code == 1
    shown = ran.stderr.replace(str(folder), "{folder}")
    for staged in declared.root.glob("cache/tmp/*"):
        pytest.fail(f"left behind: {staged}")
    head = message.format(folder="{folder}", size="{size}", full="{full}")
    if "{size}" in message:
        size = (folder / "model.safetensors").stat().st_size
        head = head.replace("{size}", str(size)).replace("{full}", str(size + 4))
    assert shown.startswith(head), shown
    assert "  log" in shown
    assert not (declared.root / "cache/out/base-one").exists()
    assert not list((declared.root / "cache/actions").rglob("*.json"))


def test_a_vector_from_another_shape_names_the_tensor_and_both_sides(declared: Project) -> None:
    checkpoint(declared.root / "formal", {"a": [2, 2, 2], "b": [5]})
    ran = declared.build("vector-formal", "-q")
    assert ran.code == 1
    assert ran.stderr.startswith("error: vector-formal: tensor 'a' does not match\n  base   float32 [2]\n  model  float32 [3]\n")


def test_a_tensor_on_one_side_only_is_refused(declared: Project) -> None:
    checkpoint(declared.root / "formal", {"a": [2, 2]})
    ran = declared.build("vector-formal", "-q")
    assert ran.stderr.startswith("error: vector-formal: tensor 'b' does not match\n  base   float32 [1]\n  model  has none\n")


def test_another_dtype_is_refused_with_both_sides(declared: Project) -> None:
    from safetensors.numpy import save_file

    save_file(
        {"a": numpy.ones(2, dtype=numpy.float16), "b": numpy.ones(1, dtype=numpy.float16)}, declared.root / "formal/model.safetensors"
    )
    ran = declared.build("vector-formal", "-q")
    assert ran.stderr.startswith("error: vector-formal: tensor 'a' does not match\n  base   float32 [2]\n  model  float16 [2]\n")


def test_a_model_that_changes_between_plan_and_merge_fails_the_merge(declared: Project) -> None:
    """The merge reads the user's folder through two artifacts that refer to it."""
    from buildsys import plan as planning
    from buildsys.cli import project as projects
    from buildsys.execute import execute
    from tests.graphs import Silent

    assert declared.build("vector-formal").code == 0
    opened = projects.opened(str(declared.root))
    plan = planning.make(opened.graph, opened.cache, opened.observer, ["merged-v1"])
    checkpoint(declared.root / "formal", {"a": [100, 100], "b": [100]})
    outcome = execute(plan, opened.cache, opened.observer, Silent(), jobs=1, keep_going=False)
    assert outcome.targets["merged-v1"].state == "failed"
    assert outcome.targets["merged-v1"].error.headline == "an input changed while it was read"  # type: ignore[union-attr]
    assert not (declared.root / "cache/out/merged-v1").exists()


def test_half_precision_is_checked_by_its_bits(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from buildsys.tensors.checkpoints import first_not_finite

    save_file({"w": numpy.array([1, 65504, numpy.inf, numpy.nan], dtype=numpy.float16)}, tmp_path / "model.safetensors")
    assert first_not_finite(Checkpoint(tmp_path / "model.safetensors").entries["w"]) == 2


def test_what_we_write_others_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, {"b": [1, 2, 3], "a": [4]})
    found = load_file(folder / "model.safetensors")
    assert {name: values.tolist() for name, values in found.items()} == {"a": [4], "b": [1, 2, 3]}


def test_a_pinned_revision_comes_from_the_hubs_cache_without_a_network(declared: Project) -> None:
    commit = "c" * 40
    hub = declared.root / "hub"
    snapshot = listed(checkpoint(hub / "models--org--name" / "snapshots" / commit, {"a": [7, 7], "b": [7]}))
    declared.buildfile(BUILDFILE.replace('path = "one"', f'hub = "org/name"\nrevision = "{commit}"'))
    ran = declared.build("base-one", env={"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"})
    assert ran.code == 0, ran.stderr
    out = declared.root / "cache/out/base-one/model.safetensors"
    assert out.read_bytes() == (snapshot / "model.safetensors").read_bytes()


def test_a_revision_that_is_nowhere_is_a_clear_error(declared: Project) -> None:
    declared.buildfile(BUILDFILE.replace('path = "one"', f'hub = "org/name"\nrevision = "{"d" * 40}"'))
    ran = declared.build("base-one", "-q", env={"HF_HUB_CACHE": str(declared.root / "hub"), "HF_HUB_OFFLINE": "1"})
    assert ran.code == 1
    assert ran.stderr.startswith("error: base-one: the model is not in the Hub's cache, and the Hub cannot be reached\n")
