"""The answer from `stat` alone is that of the full plan, or none at all."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildsys import plan as planning
from buildsys.cli import project as projects
from buildsys.errors import BuildError
from buildsys.store import fresh
from tests.checkpoints import checkpoint
from tests.conftest import Project

BUILDFILE = """
[build]
default = ["vector-*", "base-*"]
[graph]
nodes = "memory/*.md"
[base.one]
path = "models/one"
[vector.formal]
node = "formality"
path = "models/formal"
[vector.terse]
path = "models/terse"
"""


def declare(project: Project) -> None:
    project.buildfile(BUILDFILE)
    project.file("memory/formality.md").write_text("---\nid: formality\n---\nprose\n")
    for name, value in (("one", 1.0), ("formal", 2.0), ("terse", 3.0)):
        checkpoint(project.root / "models" / name, {"w": [value, value]})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Project(tmp_path_factory.mktemp("built"))
    declare(project)
    time.sleep(0.03)  # so that its own files are older than the step of the file clock when they are read
    ran = project.build()
    assert ran.code == 0, ran.stderr
    return project.root


def copied(built: Path, folder: str) -> Path:
    """The built project, elsewhere, once more settled: links into it are made anew."""
    root = Path(folder) / "project"
    shutil.copytree(built, root, symlinks=True)
    time.sleep(0.03)
    assert Project(root).build().code == 0
    return root


def full_answer(root: Path) -> str | None:
    """What the whole plan says, without the shortcut."""
    try:
        project = projects.opened(str(root))
        plan = planning.make(project.graph, project.cache, project.observer, [])
    except BuildError:
        return None
    return projects.up_to_date(plan) if plan.nothing_to_do() else None


def first(folder: Path, pattern: str = "*") -> Path:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())[0]


EDITS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda root: None,
    "comment": lambda root: (root / "Buildfile.toml").write_text("# a comment\n" + BUILDFILE),
    "table": lambda root: (root / "Buildfile.toml").write_text(BUILDFILE + '[vector.third]\npath = "models/terse"\n'),
    "typo": lambda root: (root / "Buildfile.toml").write_text(BUILDFILE + "[vector.third\n"),
    "touched input": lambda root: (root / "models/terse/config.json").touch(),
    "edited input": lambda root: checkpoint(root / "models/terse", {"w": [4.0, 4.0]}),
    "same size and time": lambda root: _disguised(root / "models/terse/config.json"),
    "new file beside an input": lambda root: (root / "models/terse/chat_template.jinja").write_text("x"),
    "pickle beside an input": lambda root: (root / "models/terse/optimizer.pt").write_text("x"),
    "missing input": lambda root: (root / "models/terse/config.json").unlink(),
    "new node": lambda root: (root / "memory/new.md").write_text("---\nid: new\n---\n"),
    "node twice": lambda root: (root / "memory/new.md").write_text("---\nid: formality\n---\n"),
    "dangling node": lambda root: (root / "memory/late.md").symlink_to(root / "later.md"),
    "node behind a link": lambda root: (root / "later.md").write_text("---\nid: formality\n---\n"),
    "missing node": lambda root: (root / "memory/formality.md").unlink(),
    "missing object": lambda root: first(root / "cache/objects").unlink(),
    "damaged object": lambda root: _overwritten(first(root / "cache/objects")),
    "missing record": lambda root: first(root / "cache/actions").unlink(),
    "damaged record": lambda root: first(root / "cache/actions").write_text("{"),
    "edited output": lambda root: (root / "cache/out/vector-terse/vector.json").write_text("{}"),
    "missing output": lambda root: shutil.rmtree(root / "cache/out/vector-formal"),
    "output that is no link": lambda root: _materialised(root / "cache/out/base-one/config.json"),
    "no stat cache": lambda root: (root / "cache/stat.jsonl").unlink(missing_ok=True),
    "no shortcut": lambda root: shutil.rmtree(root / "cache/fresh"),
}


def _overwritten(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"?" * path.stat().st_size)


def _disguised(path: Path) -> None:
    import os

    before = path.stat()
    path.write_text(path.read_text().replace("llama", "gemma"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _materialised(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def test_nothing_to_do_is_answered_from_stat_alone(built: Path) -> None:
    assert fresh.answer([], str(built)) == "up to date (3 targets)"
    assert full_answer(built) == "up to date (3 targets)"


def test_the_shortcut_loads_nothing_heavy(built: Path) -> None:
    code = "import sys; from buildsys.cli import main; sys.argv = ['build']; main(); print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=built, capture_output=True, text=True, check=True)
    assert done.stderr == "up to date (3 targets)\n"
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"pydantic", "doit", "torch", "transformers", "click", "rich", "tomli", "sqlite3", "blake3", "json", "numpy"}


def test_another_copy_of_the_program_does_not_believe_the_shortcut_of_this_one(built: Path, tmp_path: Path) -> None:
    import buildsys

    shutil.copytree(Path(buildsys.__file__).parent, tmp_path / "buildsys")
    code = "import os; from buildsys.store import fresh; print(fresh.__file__, fresh.answer([], os.getcwd()))"
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=built, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}/buildsys/store/fresh.py None\n"


def test_a_folder_that_is_not_there_is_not_answered_for_its_parent(built: Path) -> None:
    assert fresh.answer(["-C", "nowhere"], str(built)) is None
    assert fresh.answer(["vector-terse", "-C"], str(built)) is None
    ran = Project(built).build("-C", "nowhere")
    assert (ran.code, ran.stderr) == (2, "error: there is no folder nowhere\n")


@pytest.mark.parametrize("edit", EDITS)
def test_after_any_edit_the_shortcut_agrees_with_the_plan(built: Path, edit: str, tmp_path: Path) -> None:
    root = copied(built, str(tmp_path))
    assert fresh.answer([], str(root)) == "up to date (3 targets)"
    EDITS[edit](root)
    short = fresh.answer([], str(root))
    assert short is None or short == full_answer(root)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(sorted(EDITS)), st.booleans()), min_size=1, max_size=4))
def test_after_any_sequence_of_edits_and_builds_the_shortcut_agrees_with_the_plan(built: Path, edits: list[tuple[str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = copied(built, folder)
        for edit, builds in edits:
            try:
                EDITS[edit](root)
            except (OSError, IndexError):
                continue  # an earlier edit took away what this one works on
            short = fresh.answer([], str(root))
            assert short is None or short == full_answer(root)
            if builds:
                code = Project(root).build().code
                after = full_answer(root)
                assert (after is not None) == (code == 0)
                short = fresh.answer([], str(root))
                assert short is None or short == after
