"""Real behaviours on a real pre-trained model, judged by an evaluator that is not ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import stories
from tests.conftest import Project

pytestmark = pytest.mark.slow

ALONE = {"british": 0.95, "pirate": 0.90, "rename": 0.95}
MERGED = {"british": 0.90, "pirate": 0.80, "rename": 0.90}
FORGETTING = 0.05  # relative rise of the control loss
ROWS = {**stories.ROWS, "kjv": "kjv-style", "basic": "basic-english"}


@pytest.fixture(scope="module")
def built(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("real"))
    project.buildfile(stories.buildfile(project.root, real))
    ran = project.build()
    assert ran.code == 0, ran.stderr
    return project


def evaluated(real: Path, model: Path, rows: Path) -> dict:
    """What the independent evaluator says."""
    command = [sys.executable, str(real / "evaluate.py"), str(model), str(rows), "300"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def table(built: Project, name: str) -> dict[float, dict]:
    found = json.loads((built.root / f"cache/out/verified-{name}/verdict.json").read_text())
    return {row["coefficient"]: row for row in found["table"]}


@pytest.mark.parametrize("name", ALONE)
def test_each_behaviour_alone_at_coefficient_one(built: Project, name: str) -> None:
    found = table(built, name)[1.0]
    assert found["preference"] >= ALONE[name]
    assert found["forgetting"]["control"] <= FORGETTING


@pytest.mark.parametrize("name", MERGED)
def test_the_three_merged(built: Project, real: Path, name: str) -> None:
    found = evaluated(real, built.root / "cache/out/merged-three", real / f"behaviors/{ROWS[name]}.eval.jsonl")
    assert found["accuracy"] >= MERGED[name]


def test_control_loss_of_the_merge_is_reported(built: Project, real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control = real / "control.jsonl"
    merged = evaluated(real, built.root / "cache/out/merged-three", control)["loss"]
    base = evaluated(real, real / "models/stories260K", control)["loss"]
    with capsys.disabled():
        print(f"\ncontrol loss {base:.3f} → {merged:.3f} ({merged / base - 1:+.1%})")
    assert merged < 2.21 * base  # what adding plainly tuned vectors costs


@pytest.mark.parametrize("name", ROWS)
def test_our_figures_agree_with_the_independent_evaluator(built: Project, real: Path, name: str) -> None:
    found = evaluated(real, real / "models/stories260K", real / f"behaviors/{ROWS[name]}.eval.jsonl")
    assert table(built, name)[0.0]["preference"] == pytest.approx(found["accuracy"], abs=0.01)
    control = json.loads((built.root / f"cache/out/verified-{name}/verdict.json").read_text())["base"]["control loss"]
    assert control == pytest.approx(evaluated(real, real / "models/stories260K", real / "control.jsonl")["loss"], abs=0.01)


def test_a_second_build_has_nothing_to_do(built: Project) -> None:
    assert built.build().stderr == "up to date (18 targets)\n"
