"""Compiled loops are kept in a folder of the user's own, and a damaged one costs a compilation, never a merge."""

import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from buildsys.tensors import machine_code
from tests.checkpoints import checkpoint
from tests.conftest import Project

MERGE = """
[base.t]
path = "base"
[merged.m]
method = "{method}"
vectors = [{{ path = "one" }}, {{ path = "two" }}]
unverified = true
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


folder = machine_code._folder.__wrapped__  # asked again for every home


def test_loops_are_kept_in_the_users_cache_for_the_user_alone(home: Path) -> None:
    place = Path(folder())
    assert place.parent == home / "buildsys/numba"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (place, place.parent, place.parent.parent)} == {0o700}


def test_a_relative_home_is_not_looked_for_in_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Path(folder()).is_relative_to(tmp_path / ".cache")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
@pytest.mark.parametrize("depth", ["buildsys", "buildsys/numba"])
def test_a_folder_that_others_can_write_is_not_used(home: Path, depth: str, mode: int) -> None:
    folder()
    (home / depth).chmod(mode)
    assert folder() is None


def test_a_folder_that_is_a_link_is_not_used(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    home.mkdir()
    (home / "buildsys").symlink_to(tmp_path / "elsewhere")
    assert folder() is None
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_home_that_is_a_file_keeps_nothing(home: Path) -> None:
    home.write_text("")
    assert folder() is None


# its files

HARM = b"cos\nsystem\n(S'touch HARM'\ntR."  # a pickle that runs a command


def swapped(path: Path) -> None:
    """The whole content of another loop."""
    path.write_bytes(next(other for other in sorted(path.parent.iterdir()) if other != path and other.is_file()).read_bytes())


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(os.urandom(5000)),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "flipped": flipped,
    "swapped": swapped,
    "a pickle": lambda path: path.write_bytes(HARM),
    "a sealed pickle of another name": lambda path: path.write_bytes(machine_code._seal("x", HARM) + HARM),
    "gone": lambda path: path.unlink(),
    "unreadable": lambda path: path.chmod(0),
    "a folder": replaced(lambda path: path.mkdir()),
    "a pipe": replaced(os.mkfifo),
    "a dangling link": replaced(lambda path: path.symlink_to("nowhere")),
    "a link": replaced(lambda path: path.symlink_to("/etc/passwd")),
}


@pytest.fixture
def kept(home: Path) -> Callable[[], numpy.ndarray]:
    """Calls a loop that is loaded from the folder, or compiled and kept there."""

    def call() -> numpy.ndarray:
        function = machine_code.numba.njit(nogil=True)(doubled)
        function._cache = machine_code._Kept(doubled, folder(), "doubled")
        return function(numpy.arange(5.0))

    return call


def doubled(values: numpy.ndarray) -> numpy.ndarray:
    return values * 2


@pytest.mark.parametrize("name", [name for name in DAMAGE if name != "swapped"])
def test_a_damaged_loop_is_compiled_again_and_put_right(kept, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = kept()
    (file,) = Path(folder()).iterdir()
    before = file.stat().st_size
    DAMAGE[name](file)
    assert numpy.array_equal(kept(), expected)
    (file,) = Path(folder()).iterdir()
    assert file.is_file()
    assert not file.is_symlink()
    assert file.stat().st_size == pytest.approx(before, rel=0.1)
    assert not (tmp_path / "HARM").exists()


def test_a_whole_loop_is_not_compiled_again(kept) -> None:
    kept()
    (file,) = Path(folder()).iterdir()
    before = file.stat().st_ino
    kept()
    assert file.stat().st_ino == before


def test_a_folder_that_cannot_be_written_any_more_fails_nobody(kept, tmp_path: Path) -> None:
    place = Path(folder())
    place.rmdir()
    place.write_text("a file in its place")
    function = machine_code.numba.njit(nogil=True)(doubled)
    function._cache = machine_code._Kept(doubled, str(place), "doubled")
    assert function(numpy.arange(2.0)).tolist() == [0.0, 2.0]


@pytest.mark.slow
def test_a_merge_gives_the_same_bytes_whatever_became_of_every_file(project: Project) -> None:
    for at, name in enumerate(("base", "one", "two")):
        checkpoint(project.root / name, {"a": [float(at * i % 7) for i in range(500)]})
    env = {"XDG_CACHE_HOME": str(project.root / "home")}

    def merged() -> bytes:
        ran = project.build("merged-m", "--force", "-q", env=env)
        assert ran.code == 0, ran.stderr
        return (project.root / "cache/out/merged-m/model.safetensors").read_bytes()

    project.buildfile(MERGE.format(method="ties"))
    expected = merged()
    (place,) = (project.root / "home/buildsys/numba").iterdir()
    number = len(list(place.iterdir()))
    assert number > 3
    for first in range(4):
        for at, file in enumerate(sorted(place.iterdir())):
            [*DAMAGE.values()][(4 * first + at) % len(DAMAGE)](file)
        assert merged() == expected
        assert len(list(place.iterdir())) == number
    assert not list(project.root.rglob("HARM"))


# its settings


@pytest.mark.parametrize("arguments", [("merged-m",), ("--debug", "merged-m"), ("show", "merged-m")], ids=" ".join)
def test_a_projects_settings_of_numba_are_not_read(project: Project, home: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    project.buildfile(MERGE.format(method="ties"))
    for name, values in {"base": [1.0, 2.0, 3.0], "one": [2.0, 2.0, 5.0], "two": [1.0, 4.0, 3.5]}.items():
        checkpoint(project.root / name, {"w": values})
    assert project.build("merged-m", env={"XDG_CACHE_HOME": str(tmp_path / "another")}).code == 0
    merged = project.root / "cache/out/merged-m/model.safetensors"
    expected = merged.read_bytes()
    if arguments[0] != "show":
        shutil.rmtree(project.root / "cache")
    victim = project.file("victim")
    victim.write_text("as it was")
    locator = project.file("elsewhere/locator.py")
    locator.write_text(f"open({str(victim)!r}, 'w').write('imported')\nclass Locator: pass\n")
    settings = {"dump_annotation": 1, "dump_html": str(victim), "cpu_name": "generic", "debug_typeinfer": 1}
    settings["cache_locator_classes"] = "locator.Locator"
    project.file(".numba_config.yaml").write_text(json.dumps(settings))
    ran = project.build(*arguments, env={"PYTHONPATH": os.pathsep.join([str(locator.parent), os.environ.get("PYTHONPATH", "")])})
    assert ran.code == 0, ran.stderr
    assert victim.read_text() == "as it was"
    assert merged.read_bytes() == expected


def test_numba_is_loaded_by_one_module_alone() -> None:
    package = Path(machine_code.__file__).parents[1]
    loading = re.compile(r"^\s*(?:import|from) (?:numba|llvmlite)\b", re.MULTILINE)
    assert [path.name for path in package.rglob("*.py") if loading.search(path.read_text())] == ["machine_code.py"]
