"""Verification as a user meets it: metrics, gates, searched coefficients, what is measured again and what is not, bad input. A tiny model."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from buildsys.examples.rows import asked, part
from buildsys.marks import Marks
from buildsys.measurements import Measurements
from tests.conftest import Project
from tests.test_training import BUILDFILE, CORPUS, rows

EVAL = "\n".join(line.replace("number ", "number 7") for line in rows(60).splitlines()) + "\n"
CONTROL = "".join(json.dumps({"text": f"I will see the {thing} number {i}."}) + "\n" for i in range(20) for thing in ("soup", "lamp"))


def declare(project: Project, verify: str, more: str = "") -> None:
    text = BUILDFILE.format(train="rpo_alpha = 1.0", objective="preference", steps=60, save=20)
    text = text.replace("verify = { min_gain = 0.0, coefficients = [0.5, 1.0] }", f'verify = {{ rows = "eval.jsonl", {verify} }}')
    project.buildfile(text + more)
    for name, content in {"corpus.txt": CORPUS, "rows.jsonl": rows(120), "eval.jsonl": EVAL, "control.jsonl": CONTROL}.items():
        project.file(name).write_text(content)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the base, its vector and an evaluation."""
    project = Project(tmp_path_factory.mktemp("trained"))
    declare(project, 'coefficients = [0.5, 1.0], control = "control.jsonl"')
    ran = project.build("verified-later")
    assert ran.code == 0, ran.stderr
    return project.root / "cache"


@pytest.fixture
def world(project: Project, trained: Path) -> Callable[[str, str], Project]:
    """Declares a verification in a project of its own whose base and vector are made already."""
    project.share(trained)

    def declared(verify: str, more: str = "") -> Project:
        declare(project, verify, more)
        return project

    return declared


def verdict(project: Project) -> dict:
    return json.loads(project.build("show", "verified-later", "--json").stdout)["values"]["verdict.json"]


def stale(project: Project, target: str = "verified-later") -> list[str]:
    """The steps of a target that would run."""
    ran = project.build("why", target)
    assert ran.code == 0, ran.stderr
    lines = ran.stdout.splitlines()
    return [line.split()[0] for line in lines if line.endswith((" is stale", " is unknown"))]


def measurements(project: Project) -> int:
    return len(list((project.root / "cache/measurements").glob("*/*.json")))


def test_every_metric_comes_with_its_interval_and_its_rows(world) -> None:
    project = world('coefficients = [0.5, 1.0], control = "control.jsonl"')
    assert project.build("verified-later", "-q").code == 0
    found = verdict(project)
    for row in found["table"]:
        for low, value, high in (
            (row["preference_interval"][0], row["preference"], row["preference_interval"][1]),
            (row["margin_interval"][0], row["margin"], row["margin_interval"][1]),
            (row["gain_interval"][0], row["gain"], row["gain_interval"][1]),
            (row["forgetting_interval"]["control"][0], row["forgetting"]["control"], row["forgetting_interval"]["control"][1]),
        ):
            assert low <= value <= high
        assert row["n"] == 60
    assert found["passed"]
    assert found["gain_low"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ('metric = "loss"', lambda row: row["loss"] > 0),
        ('metric = "perplexity"', lambda row: row["perplexity"] > 1),
        ('contains = "MAYBE later", generate = { max_new_tokens = 12 }', lambda row: 0 <= row["contains"] <= 1),
        (r"regex = '^Maybe\b', generate = { max_new_tokens = 12 }", lambda row: 0 <= row["regex"] <= 1),
    ],
)
def test_metrics_of_losses_and_of_the_models_own_words(world, metric: str, value) -> None:
    project = world(f"{metric}, coefficients = [1.0, 2.0]")
    project.build("verified-later", "-q")
    found = verdict(project)
    assert all(value(row) for row in found["table"])
    assert found["passed"] or found["metric"] in ("contains", "regex")  # what a model of a few thousand weights says is anybody's guess


def test_a_changed_gate_or_pattern_is_judged_again_and_nothing_is_evaluated(world) -> None:
    project = world(r"regex = '^Maybe', generate = { max_new_tokens = 8 }, coefficients = [1.0, 2.0]")
    project.build("verified-later", "-q")
    declare(project, r"regex = '^M.y', generate = { max_new_tokens = 8 }, coefficients = [1.0, 2.0], min_gain = 0.01")
    assert stale(project) == ["verified-later"]


DEFAULT = "[defaults.verify]\nmax_forgetting = 0.0\n"


def test_a_default_limit_can_be_taken_away(world) -> None:
    project = world('coefficients = [0.5, 1.0], control = "control.jsonl"', DEFAULT)
    assert project.build("verified-later", "-q").code == 0
    assert verdict(project)["gates"]["max_forgetting"] == {"control": 0.0}
    declare(project, 'coefficients = [0.5, 1.0], control = "control.jsonl", max_forgetting = inf', DEFAULT)
    assert project.build("verified-later", "-q").code == 0
    assert verdict(project)["gates"]["max_forgetting"] == {"control": None}
    declare(project, "coefficients = [0.5, 1.0]", DEFAULT)
    assert "max_forgetting needs a 'control' set to be measured on" in project.build("verified-later", "-q").stderr


def test_a_new_control_set_is_evaluated_alone(world) -> None:
    project = world('coefficients = [0.5, 1.0], control = "control.jsonl"')
    project.build("verified-later", "-q")
    project.file("more.jsonl").write_text(CONTROL.replace("soup", "roof"))
    declare(project, 'coefficients = [0.5, 1.0], control = { control = "control.jsonl", more = "more.jsonl" }')
    assert stale(project) == ["verified-later:control-more", "verified-later"]


@pytest.mark.slow
def test_one_more_coefficient_is_measured_alone_and_other_rows_train_nothing(world) -> None:
    project = world("coefficients = [0.5, 1.0]")
    project.build("verified-later", "-q")
    before = measurements(project)
    declare(project, "coefficients = [0.5, 0.9, 1.0]")
    project.build("verified-later", "-q")
    assert measurements(project) == before + 1
    project.file("eval.jsonl").write_text(EVAL.replace("number 7", "number 8"))
    states = project.build("verified-later", "-n", "--json").json()["targets"]
    assert (states["vector-later"]["state"], states["verified-later"]["state"]) == ("fresh", "stale")


@pytest.mark.slow
def test_a_damaged_measurement_is_measured_again_to_the_same_bytes(world) -> None:
    project = world("coefficients = [0.35]")
    project.build("verified-later", "-q")
    digest = project.build("status", "verified-later", "--json").json()["targets"]["verified-later"]["digest"]
    for place in (project.root / "cache/measurements").glob("*/*.json"):
        place.write_text(place.read_text().replace("-", "", 1))
    for name in ("actions",):
        for place in (project.root / "cache" / name).glob("*/*.json"):
            if '"coefficients":[0.35]' in place.read_text():
                place.unlink()
    assert project.build("verified-later", "-q").code == 0
    assert project.build("status", "verified-later", "--json").json()["targets"]["verified-later"]["digest"] == digest


def test_a_renamed_control_set_is_searched_and_evaluated_no_more(world) -> None:
    verify = 'coefficients = { start = 0.5, most = 1, budget = 3 }, control = { NAME = "control.jsonl" }'
    project = world(verify.replace("NAME", "before"))
    assert project.build("verified-later", "-q").code == 0
    declare(project, verify.replace("NAME", "after"))
    assert stale(project) == ["verified-later"]  # the judge alone, whose verdict shows the name


def test_a_search_grows_until_a_gate_breaks_and_records_all_it_tried(world) -> None:
    project = world('coefficients = { start = 0.25, most = 8, budget = 8 }, control = "control.jsonl", max_forgetting = 0.2')
    ran = project.build("verified-later", "-q")
    assert ran.code == 0, ran.stderr
    found = verdict(project)
    tried = [row["coefficient"] for row in found["table"]]
    assert tried == sorted(tried)
    assert len(tried) <= 9
    assert found["coefficient"] in tried
    assert all(row["within_gates"] for row in found["table"] if row["coefficient"] <= found["coefficient"])
    before = measurements(project)
    declare(project, 'coefficients = { start = 0.25, most = 8, budget = 8 }, control = "control.jsonl", max_forgetting = 0.21')
    project.build("verified-later", "-q")
    assert measurements(project) <= before + 6  # at most the coefficients near the other gate


def test_a_negation_has_coefficients_below_zero_and_its_odds_fall(world) -> None:
    """What the base does, as a vector: its opposite is what was trained."""
    verify = 'verify = { rows = "swapped.jsonl", direction = "reduce", reduce = 1.5, coefficients = [0.5, 1.0, 2.0] }'
    project = world("coefficients = [1.0]", f"[vector.now]\nsum = {{ later = -1.0 }}\n{verify}\n")
    turned = [json.loads(line) for line in EVAL.splitlines()]
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in turned]
    project.file("swapped.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    ran = project.build("verified-now", "-q")
    assert ran.code == 0, ran.stderr
    found = json.loads(project.build("show", "verified-now", "--json").stdout)["values"]["verdict.json"]
    assert [row["coefficient"] for row in found["table"]] == [0.0, -0.5, -1.0, -2.0]
    assert found["base"]["preference"] > 0.9 > found["preference"]
    assert found["odds_factor_interval"][0] >= 1.5
    assert found["gain"] > 0
    project.buildfile((project.root / "Buildfile.toml").read_text() + '[merged.m]\nvectors = { now = "auto" }\n')
    assert project.build("merged-m", "-q").code == 0
    assert json.loads(project.build("show", "merged-m", "--json").stdout)["parameters"]["coefficients"] == [found["coefficient"]]


def test_the_verdict_that_is_no_shows_every_coefficient_with_its_intervals(world) -> None:
    project = world('coefficients = [0.01, 0.02], control = "control.jsonl", min_gain = 0.9')
    ran = project.build("verified-later", "-q")
    assert ran.code == 1
    lines = ran.stderr.splitlines()
    assert lines[0] == "error: verified-later is not verified: the gain is below min_gain = 0.9"
    assert lines[1].split() == ["coefficient", "preference", "gain", "control", "worse", "by"]
    assert [line.split()[0] for line in lines[2:7]] == ["0", "0.01", "0.02", "gates", "95%"]
    assert lines[5].strip() == "gates  gain at least 0.9"
    assert all(line.count("[") == 3 for line in lines[2:5])


TWICE = json.loads(EVAL.splitlines()[0])
OTHER = '[behavior.second]\nexamples = "eval.jsonl"\n[merged.m]\nvectors = { later = 1.0, second = 1.0 }\nchecks = { }\n'
ON_A_MERGE = (
    "[merged.m]\nvectors = { later = 1.0 }\nchecks = { }\n[vector.aside]\nsum = { later = 0.02 }\n"
    + '[merged.n]\nbase = "merged-m"\nvectors = { aside = 0.5 }\nunverified = true\nchecks = { }\n'
    + 'tune = { rows = { aside = "eval.jsonl" } }\n'
)
BAD = {
    "control trained on": ('control = "rows.jsonl"', None, "of rows.jsonl also stand in the training rows"),
    "control kept by": ('control = "control.jsonl"', lambda p: p.buildfile((p.root / "Buildfile.toml").read_text().replace("rpo_alpha = 1.0", 'rpo_alpha = 1.0, keep = { rows = "control.jsonl" }')), "of control.jsonl also stand in the training rows"),
    "a sum on its part's rows": ("", lambda p: p.buildfile((p.root / "Buildfile.toml").read_text() + '[vector.s]\nsum = { later = 1.0 }\nverify = { rows = "rows.jsonl" }\n'), "of rows.jsonl also stand in the training rows"),
    "no use": ('control = { c = { rows = "control.jsonl", min_metric = 1.0 } }', None, "of 'loss' less is better, so min_metric means nothing"),
    "held out and kept": ("", lambda p: p.buildfile((p.root / "Buildfile.toml").read_text().replace('rows = "eval.jsonl", ', "").replace("rpo_alpha = 1.0", 'rpo_alpha = 1.0, keep = { rows = "rows.jsonl" }')), "of rows.jsonl also stand in the training rows"),
    "a merge's control": ("", lambda p: p.buildfile((p.root / "Buildfile.toml").read_text() + '[vector.s]\nsum = { later = 1.0 }\n[merged.m]\nvectors = { s = 1.0 }\nunverified = true\nchecks = { control = "rows.jsonl" }\n'), "of rows.jsonl also stand in the training rows"),
    "a merge's control in a model's vectors": ("", lambda p: p.buildfile((p.root / "Buildfile.toml").read_text() + '[merged.m]\nvectors = { later = 1.0 }\n[merged.n]\nvectors = [{ of = "merged-m", coefficient = 1.0 }]\nunverified = true\nchecks = { control = "rows.jsonl" }\n'), "of rows.jsonl also stand in the training rows"),
    "another's rows": ("", lambda p: p.buildfile((p.root / "Buildfile.toml").read_text() + OTHER), "of eval.jsonl also stand in the training rows"),
    "tuned by what its base is judged by": ("", lambda p: p.buildfile((p.root / "Buildfile.toml").read_text() + ON_A_MERGE), "of eval.jsonl also stand in the rows that tune the merge"),
    "overlap": ("", lambda p: p.file("eval.jsonl").write_text(EVAL + rows(2)), "rows 61, 62 of eval.jsonl also stand in the training rows"),
    "twice": ("", lambda p: p.file("eval.jsonl").write_text(EVAL + json.dumps(TWICE) + "\n"), "row 61 of eval.jsonl stands there a second time"),
    "ids": ("", lambda p: p.file("eval.jsonl").write_text("".join(json.dumps(json.loads(line) | {"id": 4}) + "\n" for line in EVAL.splitlines()[:2])), "has the id '4' of line 1"),
    "empty": ("", lambda p: p.file("eval.jsonl").write_text(""), "no rows in"),
    "two metrics": ('contains = "a", regex = "b"', None, "has contains and regex: one metric a set"),
    "no pattern": ('regex = "("', None, "regex is not a pattern"),
    "out of reach": ("min_gain = 1.5", None, "min_gain = 1.5 cannot be reached: 1 is all that preference can gain"),
    "share above one": ("min_metric = 1.0", None, "no interval of 'preference' reaches 1"),
    "less is better": ('metric = "loss", min_metric = 2.0', None, "of 'loss' less is better"),
    "reduce what": ("reduce = 6", None, 'reduce belongs to direction = "reduce"'),
    "contradiction": ('direction = "reduce", min_metric = 0.4', None, "min_metric asks for more of a behaviour"),
    "no odds": ('direction = "reduce", reduce = 6, metric = "loss"', None, "'loss' has no odds that could fall 6 times"),
    "typo": ('metric = "preferense"', None, "'verify.metric' is 'preferense', expected 'preference', 'loss'"),
    "typo inside": ('control = { c = { row = "control.jsonl" } }', None, "unknown key 'row'"),
    "no judge": ('judge = "absent:f"', None, "'absent.py' is not there"),
    "judge spelt": ('judge = "absent"', None, "expected module:function"),
    "generate": ("generate = { seed = 1 }", None, "generate belongs to the metrics 'contains' and 'regex'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_verification_is_refused_before_anything_runs(world, case: str) -> None:
    verify, spoil, expected = BAD[case]
    project = world(verify)
    if spoil is not None:
        spoil(project)
    ran = project.build("verified-later", "-q")
    assert ran.code == 2, ran.stderr
    assert expected in ran.stderr
    assert "Traceback" not in ran.stderr


def test_too_few_rows_say_how_many_would_do(world) -> None:
    project = world("coefficients = [1.0]")
    project.file("eval.jsonl").write_text("".join(EVAL.splitlines(keepends=True)[:7]))
    ran = project.build("verified-later", "-q")
    assert ran.code == 2
    assert "7 rows to verify on are too few for any interval" in ran.stderr
    assert "give at least 20" in ran.stderr


def test_a_control_set_that_the_base_fails_says_so(world) -> None:
    project = world('coefficients = [1.0], control = { own = { rows = "other.jsonl", metric = "preference", min_metric = 0.9 } }')
    flipped = [json.loads(line) for line in EVAL.splitlines()]
    flipped = [row | {"prompt": [{"role": "user", "content": f"Soup {i}."}]} for i, row in enumerate(flipped)]
    project.file("other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in flipped))
    ran = project.build("verified-later", "-q")
    assert ran.code == 1
    assert "the base fails control set 'own': its preference is" in ran.stderr


JUDGES = """
import torch
def short(model, tokenizer, rows):
    with torch.inference_mode():
        found = []
        for row in rows:
            ids = tokenizer.apply_chat_template(row["prompt"] + row["chosen"], return_tensors="pt", return_dict=False)
            found.append(-float(model(ids, labels=ids).loss))
    return found
def raises(model, tokenizer, rows):
    return [row["nothing"] for row in rows]
def nan(model, tokenizer, rows):
    return [float("nan") for _ in rows]
def huge(model, tokenizer, rows):
    return [1e308 for _ in rows]
def leaves(model, tokenizer, rows):
    raise SystemExit("bye")
def hides(model, tokenizer, rows):
    next(model.parameters()).data.mul_(1.5)
    return [1.0 for _ in rows]
def few(model, tokenizer, rows):
    return [1.0]
def spoils(model, tokenizer, rows):
    next(model.parameters()).zero_()
    return [1.0 for _ in rows]
def borrows(model, tokenizer, rows):
    import beside
    return [1.0 for _ in rows]
"""


def own_settings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Settings that allow nothing yet, of the user who built what is in the cache."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(Path(os.environ["XDG_CONFIG_HOME"]) / "buildsys", home / "buildsys", ignore=shutil.ignore_patterns("allowed.json"))
    return str(home)


@pytest.fixture
def judged(world, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Project, dict[str, str]]]:
    """A project with a judge, in the eyes of a user of its own."""
    env = {"XDG_CONFIG_HOME": own_settings(tmp_path_factory)}

    def declared(name: str) -> tuple[Project, dict[str, str]]:
        project = world(f'judge = "judges:{name}", coefficients = [1.0, 2.0]')
        project.file("judges.py").write_text(JUDGES)
        return project, env

    return declared


def test_a_judge_runs_only_where_the_user_has_allowed_it_and_its_source_is_in_the_key(judged) -> None:
    project, env = judged("short")
    ran = project.build("verified-later", "-q", env=env)
    assert ran.code == 2
    assert ran.stderr == f"error: {project.root} may not run code of its own\n  file  judges.py\nhint: read the files, then: build allow\n"
    assert project.build("allow", env=env).stdout == f"  judges.py\n{project.root} may run this file of its own\n"
    ran = project.build("verified-later", "-q", env=env)
    assert ran.code == 0, ran.stderr
    assert verdict(project)["metric"] == "judge"
    assert project.build("allow", "--revoke", env=env).stdout == f"{project.root} may no longer run code of its own\n"
    assert project.build("verified-later", env=env).stderr.startswith("up to date")  # nothing has to run
    project.file("judges.py").write_text(JUDGES + "# changed\n")
    assert stale(project) == ["verified-later:rows", "verified-later"]
    assert project.build("verified-later", "-q", env=env).code == 2


FAILING = {
    "raises": "judge 'judges:raises' failed",
    "nan": "judge 'judges:nan' returned nan for row 1",
    "few": "judge 'judges:few' returned 1 numbers for 60 rows",
    "spoils": "judge 'judges:spoils' changed the model's weights",
    "hides": "judge 'judges:hides' changed the model's weights",
    "leaves": "judge 'judges:leaves' failed\n  SystemExit  bye\n  line        17 of judges.py",
    "huge": "a metric is no finite number",
    "absent": "judge 'judges:absent' is no function of its file",
    "borrows": "judge 'judges:borrows' failed\n  ModuleNotFoundError  No module named 'beside'\n  line                 27 of judges.py",
}


def test_judges_that_fail_verify_nothing_and_each_says_why(judged) -> None:
    project, env = judged("short")
    project.build("allow", env=env)
    env["PYTHONPATH"] = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(project.root)])
    project.file("beside.py").write_text("raise SystemExit('what stands beside a judge is in no key')\n")
    verify = 'verify = {{ rows = "eval.jsonl", judge = "judges:{}", coefficients = [1.0, 2.0] }}'
    with (project.root / "Buildfile.toml").open("a") as file:
        file.writelines(f"[vector.{name}]\nsum = {{ later = 1.0 }}\n{verify.format(name)}\n" for name in FAILING)
    ran = project.build(*(f"verified-{name}" for name in FAILING), "-k", "--json", env=env)
    assert ran.code == 1
    assert "Traceback" not in ran.stderr
    for name, expected in FAILING.items():
        found = ran.json()["targets"][f"verified-{name}"]
        assert found["state"] == "failed"
        assert expected in found["error"]
        assert project.build("status", f"verified-{name}").stdout.splitlines()[-1].startswith("stale")


TASK = """
task: seen
dataset_path: json
dataset_kwargs:
  data_files:
    test: docs.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list:
  - metric: acc
"""


@pytest.mark.slow
def test_a_local_task_of_lm_eval_is_a_metric_and_its_files_are_in_the_key(world, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("lm_eval")
    verify = 'coefficients = [1.0, 2.0], lm_eval = { task = "seen", include = "tasks" }'
    project = world(verify)
    env = {"XDG_CONFIG_HOME": own_settings(tmp_path_factory)}
    text = (project.root / "Buildfile.toml").read_text().replace('rows = "eval.jsonl", ', "")
    project.buildfile(text)
    project.file("tasks/seen.yaml").write_text(TASK)
    docs = [
        {
            "question": f"<s><|user|>I will see the lamp number {i}.<|end|>\n<|assistant|>",
            "choices": ["Maybe later would be better.", "Good, go and see."],
            "gold": 0,
        }
        for i in range(40)
    ]
    project.file("tasks/docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    ran = project.build("verified-later", "-q", env=env)
    assert (ran.code, "tasks/docs.jsonl" in ran.stderr) == (2, True)  # templates of a task are code
    project.build("allow", env=env)
    ran = project.build("verified-later", "-q", env=env)
    found = verdict(project)
    assert found["metric"] == "lm_eval", ran.stderr
    assert found["table"][0]["n"] == 40
    assert found["table"][-1]["lm_eval"] > found["table"][0]["lm_eval"]
    project.file("tasks/docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs[:39]))
    assert stale(project) == ["verified-later:rows", "verified-later"]
    project.file("tasks/seen.yaml").write_text(TASK.replace("docs.jsonl", str(project.root / "tasks/docs.jsonl")))
    assert "line 6 of seen.yaml names a file outside its folder, which would be in no key" in project.build("status").stderr
    project.file("tasks/seen.yaml").write_text(TASK)
    project.buildfile(text.replace('task = "seen"', 'task = "seem"'))
    project.build("allow", env=env)
    ran = project.build("verified-later", "-q", env=env)
    assert ran.code == 1
    assert "error: verified-later: lm_eval has no task 'seem'\n" in ran.stderr


def test_measurements_outlive_a_killed_action_and_are_believed_only_for_what_they_are_about(tmp_path: Path) -> None:
    asked: list[int] = []

    def measure(number: int) -> dict:
        asked.append(number)
        return {"chosen": [number, 0.5]}

    known, partial = tmp_path / "known", tmp_path / "partial"
    marks = Marks(b"a secret")
    first = Measurements(known, partial, marks)
    assert first.get({"coefficient": 0.5}, lambda: measure(1)) == {"chosen": [1, 0.5]}
    again = Measurements(known, partial, marks)  # the action was killed here, and runs again
    assert again.get({"coefficient": 0.5}, lambda: measure(2)) == {"chosen": [1, 0.5]}
    assert again.get({"coefficient": 0.25}, lambda: measure(3)) == {"chosen": [3, 0.5]}
    partial.rename(known)
    assert Measurements(known, partial, marks).get({"coefficient": 0.25}, lambda: measure(4)) == {"chosen": [3, 0.5]}
    assert Measurements(None, partial, marks).get({"coefficient": 0.25}, lambda: measure(5)) == {"chosen": [5, 0.5]}  # --force
    for place in known.glob("*/*.json"):
        place.write_text(place.read_text().replace("[3,0.5]", "[9,0.5]"))
    assert Measurements(known, tmp_path / "other", marks).get({"coefficient": 0.25}, lambda: measure(6)) == {"chosen": [6, 0.5]}
    assert asked == [1, 3, 5, 6]


def test_rows_that_differ_only_in_what_they_reject_are_never_on_both_sides(project: Project) -> None:
    given = [json.loads(line) for line in rows(80).splitlines()]
    given = [row | {"rejected": [{"role": "assistant", "content": f"No, version {i}."}]} for row in given for i in range(3)]
    held_out, trained = part(given, "held-out"), part(given, "train")
    assert {asked(row) for row in held_out}.isdisjoint(asked(row) for row in trained)
    assert len({asked(row) for row in held_out}) == len(held_out)
    assert len(trained) + 3 * len(held_out) == len(given)
