"""Tasks of lm-eval: only those of its index run, and only on data that is pinned. Most of it is said before anything is loaded."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildsys.errors import BuildError
from buildsys.evaluation import tasks
from buildsys.rules.evaluate import Task
from tests.checkpoints import checkpoint, tiny, tokenizer
from tests.conftest import Project
from tests.hub import COMMIT, listed, offline, snapshot

BUILDFILE = """
[base.t]
path = "base"
[vector.v]
path = "tuned"
verify = {{ lm_eval = {{ {task} }}, coefficients = [1.0] }}
"""
TASK = {
    "task": "seen",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "docs.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc"}],
}
DOCS = "".join(json.dumps({"question": f"w{i}", "choices": ["w1", "w2"], "gold": i % 2}) + "\n" for i in range(40))
HOSTILE = "open('CODE-OF-THE-PROJECT-RAN', 'w').close()\ndef text(doc):\n    return doc['question']\n"


@pytest.fixture
def declared(project: Project) -> Callable[..., Project]:
    """A project that asks for a task, with files in its folders; its models can be read, not run."""

    def declare(task: str = 'task = "seen", include = "tasks"', **files: str) -> Project:
        for name in ("base", "tuned"):
            checkpoint(project.root / name, {"a": [1.0]})
        project.buildfile(BUILDFILE.format(task=task))
        for name, text in {"tasks/seen.yaml": json.dumps(TASK), "tasks/docs.jsonl": DOCS, **files}.items():
            project.file(name).write_text(text)
        return project

    return declare


NAMES = [
    "tasks/evil.yaml",
    "evil.yaml",
    "evil.yml",
    "./evil",
    "../evil",
    "/etc/evil",
    "~/evil",
    "a*",
    "",
    "-a",
    "a b",
    "a\\nb",
    "tasks/evil",
    "hf://a",
]


def test_names_that_are_no_names_of_the_index_are_refused_each_with_its_line(declared) -> None:
    more = "".join(f'[vector.v{at}]\npath = "tuned"\nverify = {{ lm_eval = {{ task = "{name}" }} }}\n' for at, name in enumerate(NAMES))
    project = declared('task = "good"')
    project.buildfile((project.root / "Buildfile.toml").read_text() + more)
    ran = project.build("status")
    assert ran.code == 2
    assert ran.stderr.count("' is not a name that lm-eval lists: a task of the project's own needs include = \"FOLDER\"\n") == len(NAMES)
    assert "  line 9   vector.v0 " in ran.stderr


def test_a_revision_is_a_commit(declared) -> None:
    ran = declared('task = "sciq", revision = "main"').build("status")
    assert "'verify.lm_eval.revision' is 'main', expected a full commit hash of 40 hexadecimal digits" in ran.stderr


def test_a_revision_is_in_the_key_and_its_absence_in_none() -> None:
    assert "revision" not in Task(task="seen").model_dump()
    assert Task(task="seen", revision=COMMIT).model_dump()["revision"] == COMMIT


ELSEWHERE = "names a file outside its folder, which would be in no key"
FUNCTION = "names a function outside its folder"
WRONG = {
    "include": ("include: /etc/passwd", ELSEWHERE),
    "include above": ("include: [a.yaml, ../b.yaml]", ELSEWHERE),
    "include of the home": ("include: ~/b.yaml", ELSEWHERE),
    "include in a folder": ("include: a/../../b.yaml", ELSEWHERE),
    "data files": ("dataset_kwargs: {data_files: {test: [a.jsonl, /b.jsonl]}}", ELSEWHERE),
    "data files of the Web": ("dataset_kwargs: {data_files: 'https://a.b/c.jsonl'}", ELSEWHERE),
    "data folder": ("dataset_kwargs: {data_dir: ..}", ELSEWHERE),
    "data set": ("dataset_path: ../x", ELSEWHERE),
    "data set of the Hub by address": ("dataset_path: 'hf://datasets/a/b'", ELSEWHERE),
    "a file in a group": ("group: g\ntask:\n  - {task: a, dataset_path: /x}", ELSEWHERE),
    "function": ("doc_to_text: !function /tmp/evil.text", FUNCTION),
    "function above": ("doc_to_text: !function ../evil.text", FUNCTION),
    "function of no module": ("doc_to_text: !function text", FUNCTION),
    "function in a list": ("metric_list: [{metric: !function '/x.y'}]", FUNCTION),
    "Python": (
        "task: !!python/object/apply:os.system [x]",
        "has the tag tag:yaml.org,2002:python/object/apply:os.system, which is not one of data",
    ),
    "own tag": ("task: !run x", "has the tag !run, which is not one of data"),
    "data by a function": ("custom_dataset: !function a.b", "has 'custom_dataset', which can read data that is in no key"),
    "a class": ("class: !function a.B", "has 'class', which can read data that is in no key"),
    "a prompt's file": ("use_prompt: 'x.yaml:y'", "has 'use_prompt', which can read data that is in no key"),
}


@pytest.mark.parametrize("text", [text for text, _ in WRONG.values()], ids=WRONG)
def test_what_a_definition_may_not_name_is_refused_when_the_buildfile_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(f"output_type: x\n{text}\n")
    line, _, problem = tasks.problem(str(tmp_path / "a.yaml")).partition(" ")
    assert problem == next(wrong for other, wrong in WRONG.values() if other == text)
    assert int(line) >= 2


RIGHT = {
    "files of its own": "dataset_path: json\ndataset_kwargs: {data_files: {test: sub/docs.jsonl}}",
    "functions of its own": "doc_to_text: !function utils.text\nprocess_docs: !function sub/utils.docs",
    "includes of its own": "include: [common.yaml, sub/other.yaml]",
    "words that look like keys": "fewshot_config: {samples: [{class: first, include: /x, data_dir: ..}]}",
    "nothing": "custom_dataset: null\nuse_prompt: ~",
    "a merge key": "a: &a {task: x}\nb: {<<: *a}",
}


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_what_a_definition_may_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert tasks.problem(str(tmp_path / "a.yaml")) == ""


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
UNREADABLE = {
    "no YAML": ("\na: [", "2 is not YAML: "),
    "deep": ("[" * 20_000, "1 is of a file that is not YAML, or too deep"),
    "repeated": (BOMB, "1 is of a file that is not YAML, or too deep"),
    "in itself": ("a: &a [*a]", "1 is of a file that is not YAML, or too deep"),
    "large": ("# " + "x" * tasks.BYTES_MAX, "1 is of a file above 64 KiB"),
    "no text": ("a: \x00", "1 is of a file that is not YAML, or too deep"),
}


@pytest.mark.parametrize("text", [text for text, _ in UNREADABLE.values()], ids=UNREADABLE)
def test_a_definition_that_cannot_be_read_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert tasks.problem(str(tmp_path / "a.yaml")).startswith(next(wrong for other, wrong in UNREADABLE.values() if other == text))


def test_a_problem_of_a_definition_is_said_with_the_line_of_the_buildfile(declared) -> None:
    ran = declared(**{"tasks/seen.yaml": "task: seen\ninclude: /x\n"}).build("status")
    assert (ran.code, f"line 2 of seen.yaml {ELSEWHERE}\n" in ran.stderr) == (2, True)


# what data is pinned by


def refusal(given: dict, names: tuple[str, ...] = ("seen.yaml", "docs.jsonl", "sub/a.jsonl"), revision: str | None = None) -> str:
    pytest.importorskip("lm_eval")
    with pytest.raises(BuildError) as refused:
        tasks.pinned(Task(task="seen", revision=revision), {**TASK, **given}, names)
    return str(refused.value)


def kwargs(**given: object) -> dict:
    return {"dataset_kwargs": given}


UNPINNED = {
    "a file that is not there": (kwargs(data_files="other.jsonl"), "reads a file that is not in its folder\n  file  other.jsonl"),
    "an address": (kwargs(data_files="https://a.b/c"), "reads a file that is not in its folder\n  file  https://a.b/c"),
    "a chain of addresses": (kwargs(data_files="zip://docs.jsonl::https://a.b/c"), "reads a file that is not in its folder"),
    "a file above": (kwargs(data_files="../docs.jsonl"), "reads a file that is not in its folder"),
    "no text": (kwargs(data_files=[7]), "reads a file that is not in its folder"),
    "a folder that is not there": (kwargs(data_dir="other"), "reads a folder that is not in its own\n  folder  other"),
    "no file": (kwargs(), "names no data"),
    "streams": (
        kwargs(data_files="docs.jsonl", streaming=True),
        "has 'streaming' in dataset_kwargs, which is not known to leave its data pinned",
    ),
    "a cache": (kwargs(data_files="docs.jsonl", cache_dir="/x"), "has 'cache_dir' in dataset_kwargs"),
    "pickles": ({"dataset_path": "pandas"}, "reads data of the Hub that is not pinned"),
    "a folder": ({"dataset_path": "sub"}, "names its data in a way that pins nothing\n  dataset_path  sub"),
    "a path": ({"dataset_path": "/x"}, "names its data in a way that pins nothing"),
    "a script": ({"dataset_path": "a/b/c.py"}, "names its data in a way that pins nothing"),
    "a bucket": ({"dataset_path": "buckets/a/b"}, "names its data in a way that pins nothing"),
    "nothing": ({"dataset_path": None}, "names its data in a way that pins nothing\n  dataset_path  None"),
    "the Hub": (
        {"dataset_path": "allenai/sciq"},
        "reads data of the Hub that is not pinned\n  data set  allenai/sciq\nhint: pin it: lm_eval = { …, revision = ",
    ),
    "the Hub at a branch": (
        {"dataset_path": "a/b", **kwargs(revision="main")},
        "reads data of the Hub that is not pinned\n  data set  a/b\n  revision  main",
    ),
    "a function": ({"custom_dataset": tasks.Function(Path(), "a.b")}, "has 'custom_dataset', which can read data that is in no key"),
    "code that the model writes": ({"unsafe_code": True}, "runs what the model writes, as code"),
    "a metric of the Hub": (
        {"metric_list": [{"metric": "evil/metric"}]},
        "has a metric that lm-eval would fetch from the Hub, and run\n  metric  evil/metric",
    ),
    "a metric that is no text": ({"metric_list": ["acc"]}, "has a metric that lm-eval would fetch from the Hub, and run"),
}


@pytest.mark.parametrize("name", UNPINNED)
def test_data_that_is_pinned_by_nothing_is_refused(name: str) -> None:
    given, expected = UNPINNED[name]
    assert refusal(given).startswith(f"error: task 'seen' {expected}")


def test_files_have_no_revision() -> None:
    assert refusal({}, revision=COMMIT) == "error: task 'seen' reads files, which have no revision\nhint: leave 'revision' out"


def test_a_folder_of_the_tasks_own_does_not_stand_in_for_a_data_set() -> None:
    assert "names its data in a way that pins nothing" in refusal({"dataset_path": "allenai/sciq"}, ("allenai/sciq/train.jsonl",), COMMIT)


def test_files_of_its_folder_pin_a_tasks_data_and_code_is_never_trusted() -> None:
    pytest.importorskip("lm_eval")
    given = {**TASK, **kwargs(data_files={"test": "./docs.jsonl", "train": "sub/*.jsonl"}, trust_remote_code=True)}
    found = tasks.pinned(Task(task="seen"), given, ("docs.jsonl", "sub/a.jsonl"))
    files = {"test": "./docs.jsonl", "train": "sub/*.jsonl"}
    assert found == {"dataset_path": "json", "dataset_kwargs": {"data_files": files, "trust_remote_code": False}}


def test_a_metric_that_lm_eval_has_is_not_fetched() -> None:
    pytest.importorskip("lm_eval")
    metrics = [{"metric": "exact_match", "aggregation": "mean", "hf_evaluate": True}]
    found = tasks.pinned(Task(task="seen"), {**TASK, "metric_list": metrics}, ("docs.jsonl",))
    assert found["metric_list"] == [{"metric": "exact_match", "aggregation": "mean"}]


# what runs


@pytest.fixture
def runnable(declared, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Project]:
    """The same with models that can be run, and all that is in the project allowed."""
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("home")))

    def declare(*given: str, **files: str) -> Project:
        project = declared(*given, **files)
        for name in ("base", "tuned"):
            tiny("llama").save_pretrained(project.root / name)
            folder = tokenizer(project.root / name, [f"w{i}" for i in range(40)])
            (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w0"}))
        assert project.build("allow").code == 0
        return project

    return declare


def verdict(project: Project, **env: str) -> str:
    """What is said against the vector: nothing gained, since its model is the base, or why nothing was measured."""
    return str(project.build("verified-v", "--json", env=env).json()["targets"]["verified-v"]["error"])


@pytest.mark.slow
def test_a_path_to_a_definition_runs_no_code(runnable) -> None:
    """Past the Buildfile's door, as a record or a mistake could bring it."""
    from buildsys.evaluation.harness import scores

    project = runnable(
        **{"tasks/evil.py": HOSTILE, "tasks/evil.yaml": json.dumps({**TASK, "task": "evil"})[:-1] + ", doc_to_text: !function evil.text}"}
    )
    before = Path.cwd()
    os.chdir(project.root)
    try:
        with pytest.raises(BuildError) as refused:
            scores(None, None, Task.model_construct(**{**Task(task="x").model_dump(), "task": "tasks/evil.yaml", "revision": None}), {})  # type: ignore[arg-type]
    finally:
        os.chdir(before)
    assert refused.value.headline == "lm_eval has no task 'tasks/evil.yaml'"
    assert not list(project.root.rglob("CODE-OF-THE-PROJECT-RAN"))


@pytest.mark.slow
def test_a_task_of_the_projects_own_runs_with_its_functions_and_from_its_copies(runnable) -> None:
    functions = json.dumps(TASK)[:-1] + ", process_docs: !function sub/utils.docs, include: common.yaml}"
    more = {"tasks/sub/utils.py": "def docs(dataset):\n    return dataset.select(range(30))\n", "tasks/common.yaml": "num_fewshot: 0\n"}
    project = runnable(**{"tasks/seen.yaml": functions, **more})
    assert "the others on all 30\n" in verdict(project)


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_read_at_its_revision_and_a_folder_does_not_stand_in_for_it(runnable) -> None:
    hub = {**TASK, "dataset_path": "allenai/sciq", "dataset_kwargs": {"trust_remote_code": True}}
    revision = f'task = "seen", include = "tasks", revision = "{COMMIT}"'
    local = "".join(DOCS.splitlines(keepends=True)[:20])
    project = runnable(revision, **{"tasks/seen.yaml": json.dumps(hub), "allenai/sciq/test.jsonl": local, "allenai/sciq/sciq.py": HOSTILE})
    data = snapshot(project.root / "hub", "allenai/sciq", kind="dataset")
    (data / "test.jsonl").write_text(DOCS)
    (data / "sciq.py").write_text(HOSTILE)
    listed(data)
    assert "the others on all 40\n" in verdict(project, **offline(project.root / "hub"))
    assert not list(project.root.rglob("CODE-OF-THE-PROJECT-RAN"))
    project.buildfile((project.root / "Buildfile.toml").read_text().replace(f', revision = "{COMMIT}"', ""))
    assert verdict(project).startswith(
        "error: task 'seen' reads data of the Hub that is not pinned\n  data set  allenai/sciq\nhint: pin it: "
    )
