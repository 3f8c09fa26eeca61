"""After composition: checks of a merge, its coefficients tuned, the vector to blame. A model of a few thousand weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from buildsys.evaluation.merged import MergedSubject
from buildsys.merging import options
from buildsys.merging.stream import Recipe
from tests.conftest import Project
from tests.test_verification import EVAL, declare, stale

AGAINST = """
[vector.against]
sum = { later = -1.0 }
[vector.aside]
sum = { later = 0.02 }
"""
UNVERIFIED = 'unverified = ["against"]\n'


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Project(tmp_path_factory.mktemp("composed"))
    declare(project, "coefficients = [1.0]")
    ran = project.build("verified-later")
    assert ran.code == 0, ran.stderr
    return project.root / "cache"


@pytest.fixture
def world(project: Project, trained: Path) -> Callable[[str], Project]:
    project.share(trained)

    def declared(merges: str, verify: str = "coefficients = [1.0]") -> Project:
        declare(project, verify, AGAINST + merges)
        return project

    return declared


def checks(project: Project, target: str) -> dict:
    return json.loads(project.build("show", target, "--json").stdout)["values"]["checks.json"]


MERGE = (
    "[merged.m]\nvectors = {{ later = 1.0, against = {against} }}\n"
    + UNVERIFIED
    + 'checks = {{ max_loss_of_gain = 0.1, control = "control.jsonl"{more} }}\n'
)


def test_a_merge_that_keeps_its_behaviours_passes_and_shows_the_figures(world) -> None:
    project = world(
        '[merged.m]\nvectors = { later = 1.0, aside = 1.0 }\nunverified = ["aside"]\nchecks = { max_loss_of_gain = 0.1, control = "control.jsonl" }\n'
    )
    ran = project.build("merged-m", "-q")
    assert ran.code == 0, ran.stderr
    found = checks(project, "merged-m")
    assert [row["name"] for row in found["behaviours"]] == ["later"]
    assert found["behaviours"][0]["kept_interval"][0] >= 0.9
    assert found["controls"][0]["n"] == 40
    assert "checks  passed" in project.build("show", "merged-m").stdout
    assert project.build("merged-m").stderr.startswith("up to date")


def test_a_merge_that_loses_a_behaviour_fails_and_its_model_is_kept_aside(world) -> None:
    project = world(
        '[merged.m]\nvectors = { later = 1.0 }\nchecks = { max_loss_of_gain = 0.1 }\n[merged.next]\nbase = "merged-m"\nvectors = { later = 0.1 }\n'
    )
    assert project.build("merged-next", "-q").code == 0
    out = project.root / "cache/out/merged-m/model.safetensors"
    before = out.read_bytes()
    text = (
        (project.root / "Buildfile.toml")
        .read_text()
        .replace("vectors = { later = 1.0 }", "vectors = { later = 1.0, against = 0.97 }\n" + UNVERIFIED)
    )
    project.buildfile(text)
    ran = project.build("merged-next", "-k", "--json")
    states = {name: one["state"] for name, one in ran.json()["targets"].items()}
    assert (states["merged-m"], states["merged-next"]) == ("failed", "skipped")
    assert "error: merged-m does not pass its checks: 'later' keeps " in ran.stderr
    assert "the refused model is in cache/refused/merged-m" in ran.stderr
    assert out.read_bytes() == before
    assert (project.root / "cache/refused/merged-m/model.safetensors").read_bytes() != before
    assert project.build("status", "merged-m").stdout.splitlines()[-1].startswith("failed  merged-m")
    project.buildfile(text.replace("max_loss_of_gain = 0.1", "max_loss_of_gain = 1.0"))
    assert [line for line in project.build("why", "merged-m").stdout.splitlines() if line.endswith("is stale")] == [
        "merged-m:checks is stale"
    ]


def test_a_control_set_of_the_checks_has_a_gate_of_its_own(world) -> None:
    project = world(MERGE.format(against=-3.0, more=", max_forgetting = 0.0001"))
    ran = project.build("merged-m", "-q")
    assert ran.code == 1
    assert "control set 'control' is " in ran.stderr
    assert "forgets too much" in ran.stderr


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        ('vectors = { aside = 1.0 }\nunverified = true\nchecks = { }\n', "nothing of this merge is verified"),
        ('vectors = { later = 1.0 }\nchecks = { max_forgetting = 0.1 }\n', "max_forgetting needs a 'control' set"),
        ('vectors = { later = 1.0 }\ntune = { budget = 9 }\n', "needs a checks table to tune for"),
        ('vectors = { later = [1.0, 0.5] }\nchecks = { }\ntune = { }\n', "tune searches numbers"),
        ('vectors = { later = 1.0 }\nchecks = { }\ntune = { rows = { later = "eval.jsonl" } }\n', "also stand in the rows that tune the merge"),
        ('vectors = { later = 1.0 }\nchecks = { }\ntune = { rows = { latr = "eval.jsonl" } }\n', "'latr' is no vector of this merge"),
        ('vectors = { later = 1.0 }\nchecks = { max_los = 1 }\n', "unknown key 'max_los'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_checks_is_said_before_anything_runs(world, merge: str, expected: str) -> None:
    ran = world(f"[merged.m]\n{merge}").build("merged-m", "-q")
    assert ran.code == 2
    assert expected in ran.stderr


@pytest.mark.slow
def test_tuned_coefficients_lower_what_opposes_and_the_merge_takes_them(world) -> None:
    merge = (
        "[merged.m]\nvectors = { later = 1.0, against = 0.5 }\n"
        + 'unverified = ["against"]\nchecks = { max_loss_of_gain = 0.5 }\ntune = { budget = 10, rows = { against = "turning.jsonl" } }\n'
    )
    project = world(merge)
    turned = [json.loads(line) for line in (project.root / "rows.jsonl").read_text().splitlines()[:40]]
    project.file("turning.jsonl").write_text(
        "".join(json.dumps({"prompt": row["prompt"], "completion": row["rejected"]}) + "\n" for row in turned)
    )
    ran = project.build("merged-m", "--json")
    facts = json.loads(project.build("show", "merged-m", "--json").stdout)
    tuned = facts["values"]["tuned.json"]
    digests = {name: project.build("show", f"vector-{name}", "--json").json()["digest"] for name in ("later", "against")}
    found = {name: tuned[digest] for name, digest in digests.items()}
    assert found != {"later": 1.0, "against": 0.5}, ran.stderr
    assert found["against"] < 0.5 * found["later"]
    assert facts["parameters"]["coefficients"] == [tuned[digest] for digest in sorted(digests.values())]  # as a merge sorts its vectors
    assert project.build("merged-m", "-n", "--json").json()["targets"]["merged-m"]["state"] in ("fresh", "failed")
    text = (project.root / "Buildfile.toml").read_text()
    project.buildfile(text.replace("{ later = 1.0, against = 0.5 }", "{ against = 0.5, later = 1.0 }"))
    assert stale(project, "merged-m") == []


def test_bisect_names_the_vector_that_costs_a_behaviour_and_reuses_what_was_measured(world) -> None:
    project = world('[merged.m]\nvectors = { later = 1.0, against = 0.97 }\nunverified = ["against"]\nchecks = { }\n')
    project.build("merged-m", "-q")
    before = len(list((project.root / "cache/measurements").glob("*/*.json")))
    found = project.build("bisect", "merged-m", "--metric", "later", "--json")
    assert found.code == 0, found.stderr
    assert found.json()["culprits"] == ["against"]
    assert found.json()["conflicts_with"]["against"]["cosine"] == pytest.approx(-1, abs=1e-3)
    assert found.json()["conflicts_with"]["against"]["conflict"] > 0.99
    after = len(list((project.root / "cache/measurements").glob("*/*.json")))
    assert after <= before + 1  # without `later`; without `against` is later alone, and the merge itself was checked
    text = project.build("bisect", "merged-m", "--metric", "later").stdout
    assert "against conflicts with later: cosine -1.00" in text
    assert (
        project.build("bisect", "merged-m", "--metric", "latr").stderr == "error: there is no metric 'latr'\nhint: did you mean 'later'?\n"
    )
    assert project.build("bisect", "base-tiny", "--metric", "later").stderr.startswith("error: base-tiny is no merge\n")


def test_show_names_the_pair_that_lies_worst(world) -> None:
    project = world('[merged.m]\nvectors = { later = 1.0, against = 0.5, aside = 1.0 }\nunverified = ["against", "aside"]\n')
    assert project.build("merged-m", "-q").code == 0
    worst = json.loads(project.build("show", "merged-m", "--json").stdout)["inside"]["worst_pair"]
    assert "against" in worst["vectors"]
    assert worst["cosine"] == pytest.approx(-1, abs=1e-3)
    assert "worst pair  " in project.build("show", "merged-m").stdout


@pytest.mark.slow
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare", "wudi"])
def test_a_merge_in_memory_is_the_merge_on_disk(world, method: str) -> None:
    project = world(f'[merged.m]\nmethod = "{method}"\nvectors = {{ later = 0.7, aside = 1.0 }}\nunverified = ["aside"]\n')
    assert project.build("merged-m", "-q").code == 0
    out = project.root / "cache/out"
    shown = json.loads(project.build("show", "merged-m", "--json").stdout)
    digests = {name: json.loads(project.build("show", f"vector-{name}", "--json").stdout)["digest"] for name in ("later", "aside")}
    recipe = Recipe(method, options.completed(method, {})[0], shown["parameters"]["coefficients"])
    order = sorted(digests, key=digests.get)
    with MergedSubject(out / "base-tiny", [out / f"vector-{name}" for name in order], [digests[name] for name in order], recipe) as subject:
        made = {name: tensor.clone() for name, tensor in subject.at(shown["parameters"]["coefficients"]).state_dict().items()}
        assert all(
            torch.equal(tensor, load_file(out / "base-tiny/model.safetensors")[name])
            for name, tensor in subject.at([0.0, 0.0]).state_dict().items()
            if "lm_head" not in name
        )
    stored = load_file(out / "merged-m/model.safetensors")
    assert stored
    for name, tensor in stored.items():
        assert torch.equal(made[name], tensor), name


@pytest.mark.slow
def test_checks_of_a_tuned_merge_compare_with_what_the_recipe_says_not_with_what_was_tuned(world) -> None:
    tune = 'checks = { max_forgetting = 0.0005, control = "control.jsonl" }\ntune = { budget = 6, control = "plain.jsonl" }\n'
    project = world(f"[merged.m]\nvectors = {{ later = 3.0 }}\n{tune}", "coefficients = [3.0]")
    project.file("plain.jsonl").write_text("".join(json.dumps({"text": f"I will see the roof number {i}."}) + "\n" for i in range(30)))
    project.build("merged-m", "-q")
    shown = json.loads(project.build("show", "merged-m", "--json").stdout)
    (tuned,) = shown["values"]["tuned.json"].values()
    assert tuned < 3
    alone = next(row for row in shown["values"]["checks.json"]["behaviours"])
    verdict = json.loads(project.build("show", "verified-later", "--json").stdout)["values"]["verdict.json"]
    assert alone["alone"] == verdict["table"][1]["preference"]  # at 3.0


@pytest.mark.slow
def test_a_merge_on_a_merge_keeps_what_its_base_had_to_keep(world) -> None:
    project = world(
        '[merged.m]\nvectors = { later = 1.0 }\n[merged.n]\nbase = "merged-m"\nvectors = { against = 0.97 }\nunverified = true\nchecks = { max_loss_of_gain = 0.1 }\n'
    )
    ran = project.build("merged-n", "-q")
    assert ran.code == 1
    assert "'later' keeps " in ran.stderr


def test_a_metric_that_a_control_set_must_keep_is_judged_on_the_merge(world) -> None:
    control = 'checks = { control = { c = { rows = "fresh.jsonl", metric = "preference", min_metric = 0.9 } } }\n'
    project = world(f"[merged.m]\nvectors = {{ later = 1.0 }}\n{control}")
    turned = [json.loads(line.replace("number 7", "number 5")) for line in EVAL.splitlines()]
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in turned]
    project.file("fresh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    ran = project.build("merged-m", "-q")
    assert ran.code == 1
    assert "control set 'c' is at " in ran.stderr


def test_a_refused_model_goes_when_the_merge_passes(world) -> None:
    text = '[merged.m]\nvectors = { later = 1.0, against = 0.97 }\nunverified = ["against"]\nchecks = { max_loss_of_gain = 0.1 }\n'
    project = world(text)
    assert project.build("merged-m", "-q").code == 1
    assert (project.root / "cache/refused/merged-m").exists()
    project = world(text.replace("against = 0.97", "against = 0.01"))
    assert project.build("merged-m", "-q").code == 0
    assert not (project.root / "cache/refused/merged-m").exists()


def test_rows_that_judge_a_merge_do_not_tune_it(world) -> None:
    project = world('[merged.m]\nvectors = { later = 1.0 }\nchecks = { control = "control.jsonl" }\ntune = { control = "control.jsonl" }\n')
    ran = project.build("merged-m", "-q")
    assert ran.code == 2
    assert "rows that judge a merge may not tune it" in ran.stderr


def test_a_vector_that_stands_twice_cannot_be_checked(world) -> None:
    project = world(
        '[merged.m]\nvectors = [{ vector = "later", coefficient = 1.0 }, { vector = "later", coefficient = 0.25 }]\nchecks = { }\n'
    )
    assert "vector 'later' stands twice, and checks measure each alone" in project.build("merged-m", "-q").stderr


def test_one_vector_leaves_nothing_to_leave_out(world) -> None:
    project = world("[merged.m]\nvectors = { later = 1.0 }\n")
    assert project.build("bisect", "merged-m", "--metric", "later").stderr.startswith("error: merged-m has one vector\n")


def test_bisect_builds_what_it_needs_of_a_merge_that_is_not_asked_for(world) -> None:
    under = "[merged.m]\nvectors = { later = 0.9 }\nchecks = { max_loss_of_gain = 0.5 }\n"
    project = world(under + '[merged.n]\nbase = "merged-m"\nvectors = { later = 0.2, against = 0.8 }\nunverified = ["against"]\n')
    ran = project.build("bisect", "merged-n", "--metric", "later", "--json")
    assert ran.code == 0, ran.stderr
    assert {row["vector"] for row in ran.json()["vectors"]} == {"later", "against"}
