"""`build show` and `build export`: what they measure, by hand on small vectors, and what leaves the cache."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.numpy import load_file

from tests.checkpoints import checkpoint, save, tiny
from tests.conftest import Project

BUILDFILE = """
[base.one]
path = "one"
[vector.formal]
path = "formal"
[vector.polite]
path = "polite"
[merged.m]
method = "ties"
density = 0.5
unverified = true
vectors = { formal = 1.0, polite = 0.5 }
"""


@pytest.fixture
def declared(project: Project) -> Project:
    zeros, names = [0.0] * 4, ["model.embed", "model.layers.0.up", "model.layers.0.down", "model.layers.1.up"]
    checkpoint(project.root / "one", dict.fromkeys(names, zeros))
    checkpoint(project.root / "formal", dict(zip(names, [[3, 0, 0, 4], [1, 0, 0, 0], zeros, [0, 2, 0, 0]], strict=True)))
    checkpoint(project.root / "polite", dict(zip(names, [[-60, 0, 0, 80], zeros, zeros, zeros], strict=True)))
    project.buildfile(BUILDFILE)
    assert project.build("*", "-q").code == 0
    return project


def test_a_vector_shows_its_norm_by_layer_and_what_moved_most(declared: Project) -> None:
    found = declared.build("show", "vector-formal", "--json").json()["inside"]
    assert found["norm"] == pytest.approx(30**0.5)
    assert {label: one["norm"] for label, one in found["layers"].items()} == {"layer 0": 1, "layer 1": 2, "model.embed": 5}
    assert list(found["moved_most"]) == ["model.embed", "model.layers.1.up", "model.layers.0.up"]
    assert found["moved_most"]["model.embed"]["share"] == pytest.approx(25 / 30)
    assert "\nmoved most\n  model.embed        5  83.3%\n" in declared.build("show", "vector-formal").stdout


def test_a_merge_shows_angles_conflicts_trimming_and_a_mismatch_of_norms(declared: Project) -> None:
    ran = declared.build("show", "merged-m", "--json").json()["inside"]
    at = {name: place for place, name in enumerate(ran["vectors"])}
    formal, polite = at["formal"], at["polite"]
    assert ran["norms"][formal] == pytest.approx(30**0.5)
    assert ran["scaled_norms"][polite] == pytest.approx(50)
    assert ran["cosines"][1][0] == pytest.approx((3 * -30 + 4 * 40) / (30**0.5 * 50))
    assert ran["conflicts"][1][0] == 0.5  # of the two entries that both move, one is pulled both ways
    assert ran["trimmed"][formal] == 0
    assert ran["opposed"] == pytest.approx(1 / 4)
    shown = declared.build("show", "merged-m").stdout
    assert "warning: the largest α·τ is 9.1 times the smallest" in shown


def test_a_trim_shows_what_it_dropped(declared: Project) -> None:
    declared.buildfile(BUILDFILE.replace("0.5\nunverified", "0.25\nunverified"))
    declared.build("merged-m", "-q")
    found = declared.build("show", "merged-m", "--json").json()["inside"]
    trimmed = dict(zip(found["vectors"], found["trimmed"], strict=True))
    assert trimmed == {"formal": pytest.approx(1 / 4), "polite": pytest.approx(1 / 2)}


@pytest.mark.parametrize("path", ["release", "release/sub", "inner/release/sub", "release/../sub"])
def test_an_export_goes_through_no_link_of_the_project(declared: Project, tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    away = tmp_path_factory.mktemp("away")
    (declared.root / "inner").mkdir()
    link = declared.root / ("inner/release" if path.startswith("inner") else "release")
    link.symlink_to(away)
    assert declared.build("merged-m").code == 0
    ran = declared.build("export", "merged-m", path)
    assert (ran.code, ran.stderr) == (
        2,
        "error: release is a link of the project, and nothing is exported through one\n"
        f"  link         {link}\n  destination  {away}\nhint: name another folder\n",
    )
    assert list(away.iterdir()) == []
    assert not (away.parent / "sub").exists()


def test_an_export_follows_links_outside_of_the_project(declared: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    away = tmp_path_factory.mktemp("away")
    (away / "disk").mkdir()
    (away / "link").symlink_to("disk")
    assert declared.build("merged-m").code == 0
    assert declared.build("export", "merged-m", str(away / "link/model")).code == 0
    assert (away / "disk/model/model.safetensors").exists()


def test_an_export_is_a_folder_of_its_own(declared: Project) -> None:
    out = declared.root / "away" / "model"
    ran = declared.build("export", "merged-m", str(out))
    assert ran.code == 0, ran.stderr
    assert ran.stdout.startswith(f"merged-m → {out} (3 files, ")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    (out / "model.safetensors").write_bytes(b"mine")
    assert declared.build("merged-m").stderr.startswith("up to date")
    again = declared.build("export", "merged-m", str(out))
    assert again.code == 1
    assert again.stderr == f"error: {out} is not empty\nhint: name a folder that does not exist yet\n"
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_what_is_not_built_or_is_no_model_is_not_exported(declared: Project) -> None:
    declared.buildfile(BUILDFILE.replace("polite = 0.5", "polite = 0.25"))
    ran = declared.build("export", "merged-m", "x")
    assert ran.stderr == "error: merged-m is not built as the Buildfile says\n  state  stale\nhint: build merged-m\n"
    assert declared.build("export", "base-one", "x", "--format", "lora", "--rank", "2").code == 2
    assert declared.build("export", "merged-m", "x", "--rank", "2").stderr.startswith("error: --format lora and --rank go together\n")
    assert not (declared.root / "x").exists()


def test_an_adapter_keeps_the_best_part_of_each_matrix_and_says_how_much(project: Project) -> None:
    generator = numpy.random.default_rng(0)
    left, right = numpy.linalg.qr(generator.standard_normal((6, 3)))[0], numpy.linalg.qr(generator.standard_normal((5, 3)))[0]
    tau = (left * [4.0, 2.0, 1.0]) @ right.T
    save(project.root / "one", {"up.weight": numpy.zeros((6, 5), numpy.float32), "norm": numpy.zeros(2, numpy.float32)})
    save(project.root / "formal", {"up.weight": tau.astype(numpy.float32), "norm": numpy.array([0, 2], numpy.float32)})
    project.buildfile(
        '[base.one]\npath = "one"\n[vector.formal]\npath = "formal"\n[merged.m]\nunverified = true\nvectors = { formal = 1.0 }\n'
    )
    assert project.build("merged-m", "vector-formal", "-q").code == 0
    for target in ("merged-m", "vector-formal"):
        ran = project.build("export", target, target, "--format", "lora", "--rank", "2", "--json")
        found = ran.json()
        assert found["energy"] == pytest.approx((16 + 4) / (16 + 4 + 1 + 4))
        assert found["left_out"] == ["norm"]
        factors = load_file(project.root / target / "adapter_model.safetensors")
        product = factors["base_model.model.up.lora_B.weight"] @ factors["base_model.model.up.lora_A.weight"]
        numpy.testing.assert_allclose(product, (left[:, :2] * [4.0, 2.0]) @ right[:, :2].T, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_peft_loads_an_exported_adapter_of_full_rank_as_the_merged_model(project: Project, family: str) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = tiny(family)
    model.save_pretrained(project.root / "one")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and not any(part in name for part in ("embed", "wte", "wpe", "lm_head")):
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(project.root / "tuned")
    project.buildfile('[base.one]\npath = "one"\n[merged.m]\nunverified = true\nvectors = [{ path = "tuned", coefficient = 0.5 }]\n')
    assert project.build("merged-m", "-q").code == 0
    ran = project.build("export", "merged-m", "adapter", "--format", "lora", "--rank", "24", "--json")
    assert ran.json()["energy"] == pytest.approx(1, abs=1e-6)
    assert json.loads((project.root / "adapter/adapter_config.json").read_text())["fan_in_fan_out"] == (family == "gpt2")
    merged = AutoModelForCausalLM.from_pretrained(project.root / "cache/out/merged-m")
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(project.root / "one"), project.root / "adapter")
    ids = torch.arange(12).reshape(1, -1)
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-3)
    assert Path(project.root / "adapter").exists()


def test_an_exported_vector_holds_its_tensors(declared: Project) -> None:
    away = declared.root / "elsewhere"
    away.mkdir()
    ran = Project(away).build("-C", str(declared.root), "export", "vector-formal", "out")
    assert ran.code == 0, ran.stderr
    found = load_file(declared.root / "out" / "vector.safetensors")
    assert found["model.embed"].tolist() == [3, 0, 0, 4]
