"""`--debug` and what is left without it: whole tracebacks, steps that a debugger can enter, logs of errors that nobody foresaw."""

import os
import re
import sys
import threading
from pathlib import Path

import pytest

from buildsys.errors import BuildError, Interrupted
from tests.checkpoints import checkpoint, tiny, tokenizer
from tests.conftest import Project, Ran
from tests.graphs import Node, World

HINT = "hint: run again with --debug for the traceback\n"


@pytest.fixture
def vector(project: Project) -> Project:
    project.buildfile('[build]\ndefault = ["vector-a"]\n[base.b]\npath = "b"\n[vector.a]\npath = "a"\n')
    checkpoint(project.root / "b", {"w": [1, 2]})
    checkpoint(project.root / "a", {"w": [2, 2]})
    return project


def broken(project: Project, place: str, *arguments: str) -> Ran:
    """The command with a fault of ours in one of its functions."""
    module, _, name = place.partition(":")
    owner, _, function = f"module.{name}".rpartition(".")
    project.file("elsewhere/sitecustomize.py").write_text(
        f"""import importlib
module = importlib.import_module({module!r})
def fault(*given, **named):
    try:
        [][7]
    except IndexError as error:
        raise RuntimeError("a fault") from error
{owner}.{function} = fault
"""
    )
    path = [str(project.root / "elsewhere"), os.environ.get("PYTHONPATH", "")]
    return project.build(*arguments, env={"PYTHONPATH": os.pathsep.join(filter(None, path))})


def named_log(ran: Ran) -> str:
    """What stands in the log that an error names."""
    (log,) = re.findall(r"(?m)^  log +(.+)$", ran.stderr)
    return Path(log).read_text()


CHAIN = ("IndexError: list index out of range", "The above exception was the direct cause", "RuntimeError: a fault")


@pytest.mark.parametrize(
    "place",
    [
        "buildsys.staging:Stage.inputs",
        "buildsys.store.cache:Cache.commit",
        "buildsys.execute:resolve",
        "buildsys.cli.watch:Lines.started",
        "buildsys.cli.watch:Lines.ended",
        "buildsys.rules.extract:run",
    ],
)
def test_an_error_that_nobody_foresaw_in_a_step_is_in_the_log_that_it_names(vector: Project, place: str) -> None:
    ran = broken(vector, place, "-k")
    assert ran.code == 1
    assert "RuntimeError  a fault" in ran.stderr
    assert HINT in ran.stderr
    assert "Traceback" not in ran.stderr
    for log in re.findall(r"(?m)^  log +(.+)$", ran.stderr):
        assert all(part in Path(log).read_text() for part in CHAIN)
    assert "  log  " in ran.stderr


@pytest.mark.parametrize("place", ["buildsys.rules.extract:run", "buildsys.staging:Stage.inputs", "buildsys.plan:make"])
def test_debug_shows_the_whole_chain(vector: Project, place: str) -> None:
    ran = broken(vector, place, "--debug")
    assert ran.code == 1
    assert all(part in ran.stderr for part in CHAIN)
    assert HINT not in ran.stderr


def test_an_error_of_ours_outside_of_a_step_is_in_a_log_of_the_cache(vector: Project) -> None:
    assert vector.build().code == 0
    ran = broken(vector, "buildsys.plan:make", "status")
    log = re.findall(r"log  +(\S+)", ran.stderr)[0]
    assert ran.code == 1
    assert ran.stderr == f"error: an internal error\n  RuntimeError  a fault\n  log           {log}\n{HINT}"
    assert re.fullmatch(re.escape(str(vector.root)) + r"/cache/logs/internal-\d{8}-\d{6}-\d+\.log", log)
    assert all(part in named_log(ran) for part in CHAIN)


def test_where_there_is_no_cache_an_error_of_ours_leaves_none(vector: Project) -> None:
    ran = broken(vector, "buildsys.plan:make", "status")
    assert ran.stderr == f"error: an internal error\n  RuntimeError  a fault\n{HINT}"
    assert not (vector.root / "cache").exists()


def test_a_log_of_ours_follows_no_link_out_of_the_cache(vector: Project) -> None:
    (vector.root / "elsewhere").mkdir()
    assert vector.build().code == 0
    (vector.root / "cache" / "logs").rename(vector.root / "cache" / "old")
    (vector.root / "cache" / "logs").symlink_to(vector.root / "elsewhere")
    assert broken(vector, "buildsys.plan:make", "status").code == 1
    assert [path.name for path in (vector.root / "elsewhere").glob("*.log")] == []


@pytest.mark.parametrize(
    "arguments",
    [("--debug", "status"), ("status", "--debug"), ("-C", ".", "--debug", "graph"), ("--debug", "list", "--json"), ("--debug", "-n"),
     ("--debug", "add", "behavior", "x", "--node", "x", "--examples", "x")],
)  # fmt: skip
def test_every_command_takes_debug_before_it_and_after_it(vector: Project, arguments: tuple[str, ...]) -> None:
    ran = vector.build(*arguments)
    assert ran.stderr in (
        "",
        "warning: vector 'a' has no node\n",
        'error: there is no memory graph\nhint: set [graph] nodes = "memory/*.md"\n',
    )


def test_a_mistake_in_the_buildfile_has_no_traceback(vector: Project) -> None:
    vector.buildfile("[bas.x]\n")
    assert "Traceback" not in vector.build("--debug").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add",), "error: 'build add' needs a command of its own\nhint: they are behavior; 'build add --help' says more\n"),
        (("-C",), "error: option '-C' requires an argument\nhint: 'build --help' shows the commands and their options\n"),
        (("-j", "2", "list"), "error: there is no option -j\nhint: 'build --help' shows them\n"),
        (
            ("--format", "dot", "graph", "-C"),
            "error: option '-C' requires an argument\nhint: 'build --help' shows the commands and their options\n",
        ),
        (("--json=1", "-n"), "error: option '--json' does not take a value\nhint: 'build --help' shows the commands and their options\n"),
        (("-C", ".", "-C", "absent", "list"), "error: there is no folder absent\n"),
    ],
)
def test_a_wrong_option_is_an_error_wherever_it_stands(vector: Project, arguments: tuple[str, ...], said: str) -> None:
    ran = vector.build(*arguments)
    assert (ran.code, ran.stderr) == (2, said)


def test_options_may_stand_before_their_command(vector: Project) -> None:
    assert vector.build("--format", "mermaid", "-C", "absent", "-C", ".", "graph").stdout.startswith("flowchart LR\n")


# steps in this process


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.write("a.txt", "hello")
    world.nodes = {"one": Node(["a.txt"]), "two": Node(["a.txt"]), "three": Node(["one", "two"], suffix="!")}
    return world


def test_debug_makes_the_same_without_a_process_of_its_own(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = World(tmp_path_factory.mktemp("other"), world.nodes)
    other.write("a.txt", "hello")
    made, debugged = other.build(jobs=1), world.build(debug=True)
    assert world.texts() == other.texts()
    assert {name: (one.state, one.digest) for name, one in made.targets.items()} == {
        name: (one.state, one.digest) for name, one in debugged.targets.items()
    }
    assert world.build().count("fresh") == 3


def test_a_breakpoint_in_a_rule_is_in_the_main_thread_of_the_build(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stops: list[tuple[int, bool]] = []
    monkeypatch.setattr(sys, "breakpointhook", lambda: stops.append((os.getpid(), threading.current_thread() is threading.main_thread())))
    world.nodes |= {"one": Node(["a.txt"], suffix="break"), "two": Node(["one"], suffix="break")}
    assert world.build(debug=True).exit_code == 0
    assert stops == [(os.getpid(), True)] * 2


def test_leaving_the_debugger_interrupts_the_build(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import bdb

    def leave() -> None:
        raise bdb.BdbQuit

    monkeypatch.setattr(sys, "breakpointhook", leave)
    world.nodes["one"].suffix = "break"
    with pytest.raises(Interrupted):
        world.build(debug=True)


def test_what_a_step_changes_for_its_process_is_put_back(world: World) -> None:
    world.nodes["one"].suffix = "litter"
    before = os.getcwd(), dict(os.environ), list(sys.path)
    assert world.build(debug=True).exit_code == 0
    after = dict(os.environ)
    for name in ("TOKENIZERS_PARALLELISM", "PYTHONWARNINGS", "HF_HUB_DISABLE_PROGRESS_BARS", "OPENBLAS_NUM_THREADS", "PYTHONSAFEPATH"):
        before[1].pop(name, None), after.pop(name, None)
    assert (os.getcwd(), after, list(sys.path)) == before


def test_a_failure_under_a_debugger_is_in_its_log_too(world: World) -> None:
    world.nodes["one"].suffix = "oops"
    failed = world.build(debug=True).targets["one"]
    assert isinstance(failed.error, BuildError)
    assert isinstance(failed.error.__cause__, KeyError)
    assert failed.log is not None
    assert "KeyError: 'missing'" in Path(failed.log).read_text()


JUDGES = """
def stops(model, tokenizer, rows):
    answer = 41
    breakpoint()
    print("on the terminal")
    return [float(sum(map(len, row["prompt"]))) for row in rows]
"""


@pytest.mark.slow
def test_a_breakpoint_in_a_judge_has_the_terminal(project: Project) -> None:
    project.buildfile(
        """[base.b]
path = "b"
[vector.a]
path = "a"
verify = { rows = "rows.jsonl", judge = "judges:stops", coefficients = [1.0] }
"""
    )
    for name in ("a", "b"):
        tiny("llama").save_pretrained(project.root / name)
        tokenizer(project.root / name, [f"w{row}" for row in range(40)])
    project.file("rows.jsonl").write_text("".join(f'{{"prompt": "w{row}", "completion": "w2"}}\n' for row in range(40)))
    project.file("judges.py").write_text(JUDGES)
    env = {"XDG_CONFIG_HOME": str(project.root / "home")}
    assert project.build("allow", env=env).code == 0
    ran = project.build("--debug", "verified-a", env=env, stdin="p answer + 1\nc\n" * 4)
    assert "(Pdb) 42" in ran.stdout
    assert "on the terminal" in ran.stdout
    assert "verified-a is not verified" in ran.stderr  # nothing was gained: the two models are one
    project.file("judges.py").write_text(JUDGES + "\n")
    assert project.build("allow", env=env).code == 0
    ran = project.build("--debug", "--json", "verified-a", env=env, stdin="c\n" * 4)
    assert ran.json()["exit"] == 1
    assert "on the terminal" in ran.stderr
