"""Where a project may lie and where a build may run: any name of a folder, any encoding of a stream, any TMPDIR."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import checkpoint
from tests.conftest import Project

BUILDFILE = """
[build]
default = ["vector-a"]
[graph]
nodes = "mem*/*.md"
[base.b]
path = "b"
[vector.a]
node = "own"
path = "a"
"""


def declare(root: Path, node: str = "own") -> Project:
    project = Project(root)
    project.file("Buildfile.toml").write_text(BUILDFILE)
    project.file("memory/node.md").write_text(f"---\nid: {node}\n---\n")
    checkpoint(root / "b", {"w": [1, 2]})
    checkpoint(root / "a", {"w": [2, 2]})
    return project


@pytest.mark.parametrize(("name", "neighbor"), [("a[b]", "ab"), ("a*", "ab"), ("a?", "ab"), ("[!x]", "y"), ("a\\", "a"), ("**", "x")])
def test_a_folder_whose_name_looks_like_a_pattern_reads_its_own_files(tmp_path: Path, name: str, neighbor: str) -> None:
    own = declare(tmp_path / name)
    declare(tmp_path / neighbor, node="neighbors")
    ran = own.build("graph", "--json")
    assert (list(ran.json()["nodes"]), ran.stderr) == (["own"], "")
    found = ran.json()["nodes"]["own"]["path"]
    assert found == str(tmp_path / name / "memory" / "node.md")


def test_a_new_file_beside_a_pattern_is_noticed_in_such_a_folder(tmp_path: Path) -> None:
    own = declare(tmp_path / "a[b]*")
    assert own.build().code == 0
    assert own.build().stderr == "up to date (2 targets)\n"
    own.file("memories/new.md").write_text("---\nid: own\n---\n")
    assert own.build().stderr.startswith("error: node 'own' stands in two files\n")


def test_names_that_are_not_utf8_are_built_shown_and_remembered(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xff"))
    project = declare(root)
    (root / "memory" / "node.md").rename(root / "memory" / os.fsdecode(b"n\xfe.md"))
    (root / "a" / os.fsdecode(b"extra\xfd.bin")).write_text("x")
    assert project.build().code == 0
    assert project.build().stderr == "up to date (2 targets)\n"
    assert Project(Path("/")).build("-C", str(root)).stderr == "up to date (2 targets)\n"
    assert project.build("status").stdout == "fresh  base-b\nfresh  vector-a\n"
    assert os.fsencode(project.build("show", "vector-a", "--json").json()["path"]) == os.fsencode(root / "cache" / "out" / "vector-a")
    assert project.build("export", "vector-a", "out").stdout.startswith(f"vector-a → {tmp_path}/p\\xff/out (1 files, ")
    assert project.build(os.fsdecode(b"t\xff")).stderr.splitlines()[:2] == ["error: there is no such target", r"  target  t\xff"]


def test_a_file_beside_a_model_whose_name_is_not_utf8_is_not_part_of_it(tmp_path: Path) -> None:
    project = declare(tmp_path)
    (tmp_path / "a" / os.fsdecode(b"extra\xfd.safetensors")).write_text("x")
    assert project.build().code == 0
    assert project.build("export", "base-b", "exported").code == 0
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == ["config.json", "model.safetensors"]


ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("env", ASCII, ids=["ascii", "strict", "locale"])
def test_where_a_stream_takes_ascii_only_the_rest_is_shown_as_codes(tmp_path: Path, env: dict[str, str]) -> None:
    project = declare(tmp_path, node="Gedächtnis")
    project.buildfile(BUILDFILE.replace('"own"', '"Gedächtnis"'))
    assert project.build(env=env).stderr.endswith(" s \\u2192 cache/out/vector-a\n")
    assert project.build("graph", env=env).stdout.splitlines()[:2] == ["Ged\\xe4chtnis", "  a \\u2192 vector-a"]
    ran = project.build("graph", "--json", env=env)
    assert list(json.loads(ran.stdout)["nodes"]) == ["Gedächtnis"]
    assert project.build("list", "--json", env=env).json()["targets"]["vector-a"]["node"] == "Gedächtnis"


@pytest.mark.parametrize("command", ["", "list", "status", "status --json", "graph"])
def test_a_closed_stream_is_not_an_error(tmp_path: Path, command: str) -> None:
    declare(tmp_path)
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        line = f"{sys.executable} -m buildsys {command} {closed}"
        assert subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_a_tmpdir_whose_path_no_socket_can_have_is_passed_over(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 50)
    long.mkdir()
    project = declare(tmp_path)
    ran = project.build(env={"TMPDIR": str(long)})
    assert ran.code == 0, ran.stderr
    assert list(long.iterdir()) == []


@pytest.mark.parametrize("tmpdir", ["absent", "Buildfile.toml", ""])
def test_a_tmpdir_that_is_none_is_passed_over(tmp_path: Path, tmpdir: str) -> None:
    project = declare(tmp_path)
    assert project.build(env={"TMPDIR": str(tmp_path / tmpdir) if tmpdir else ""}).code == 0
