"""The command as people use it: what it prints, its exit codes, Ctrl-C, kill -9, two at once, a full pipe, a bad cache."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.checkpoints import checkpoint
from tests.conftest import Project

BUILDFILE = """
[build]
default = ["vector-formal"]
[graph]
nodes = "memory/*.md"
[base.one]
path = "one"
[vector.formal]
node = "formality"
path = "formal"
"""


@pytest.fixture
def declared(project: Project) -> Project:
    project.buildfile(BUILDFILE)
    project.file("memory/formality.md").write_text("---\nid: formality\n---\n")
    checkpoint(project.root / "one", {"a": [1, 2]})
    checkpoint(project.root / "formal", {"a": [2, 2]})
    return project


def test_a_build_says_what_it_made_and_a_second_one_that_there_is_nothing_to_do(declared: Project) -> None:
    first = declared.build()
    assert first.code == 0
    assert first.stdout == ""
    assert first.stderr.splitlines()[:2] == ["base-one: model", first.stderr.splitlines()[1]]
    assert first.stderr.splitlines()[-1].startswith("2 built in ")
    assert first.stderr.splitlines()[-1].endswith(" → cache/out/vector-formal")
    assert declared.build().stderr == "up to date (2 targets)\n"


def test_quiet_prints_nothing(declared: Project) -> None:
    ran = declared.build("-q")
    assert (ran.code, ran.stdout, ran.stderr) == (0, "", "")


def test_json_is_one_object_on_stdout(declared: Project) -> None:
    found = declared.build("--json").json()
    assert found["exit"] == 0
    assert found["counts"] == {"built": 2, "fresh": 0, "failed": 0, "skipped": 0}
    one = found["targets"]["vector-formal"]
    assert sorted(one) == ["digest", "facts", "key", "path", "seconds", "state", "why"]
    assert (one["state"], one["path"], one["why"]) == ("built", "cache/out/vector-formal", ["never built"])


def test_json_of_a_failure_names_the_error_and_its_log(declared: Project) -> None:
    checkpoint(declared.root / "formal", {"a": [2, 2, 2]})
    ran = declared.build("--json")
    found = ran.json()
    assert ran.code == found["exit"] == 1
    assert found["targets"]["vector-formal"]["state"] == "failed"
    assert "tensor 'a' does not match" in found["targets"]["vector-formal"]["error"]
    assert Path(found["targets"]["vector-formal"]["log"]).exists()


def test_json_of_a_wrong_buildfile(declared: Project) -> None:
    declared.buildfile("[bas.x]\n")
    ran = declared.build("--json")
    assert ran.code == 2
    assert ran.json()["exit"] == 2
    assert ran.json()["error"].startswith("error: 1 problem in Buildfile.toml")


def test_globs_name_targets(declared: Project) -> None:
    assert declared.build("*-one", "-n").stdout == "stale  base-one  never built\n"


def test_an_unknown_target_is_refused_with_the_nearest_one(declared: Project) -> None:
    ran = declared.build("vector-formel")
    assert (ran.code, ran.stderr) == (2, "error: there is no such target\n  target  vector-formel\nhint: did you mean 'vector-formal'?\n")


def test_usage_errors_have_three_parts_too(declared: Project) -> None:
    assert declared.build("--jbos", "2").stderr == "error: there is no option --jbos\nhint: did you mean --jobs?\n"
    assert declared.build("why").stderr == "error: missing argument 'TARGET'\nhint: 'build --help' shows the commands and their options\n"
    assert declared.build("-j", "0").code == 2


def test_without_a_buildfile_it_says_where_it_looked(tmp_path: Path) -> None:
    ran = Project(tmp_path).build()
    assert (ran.code, ran.stderr) == (2, f"error: there is no Buildfile.toml\n  looked in  {tmp_path}\n  and        the folders above it\n")


def test_it_works_from_a_folder_below_and_from_elsewhere(declared: Project) -> None:
    (declared.root / "deep").mkdir()
    assert Project(declared.root / "deep").build().code == 0
    assert Project(Path("/")).build("-C", str(declared.root)).stderr == "up to date (2 targets)\n"
    assert Project(Path("/")).build("-C", str(declared.root), "list").stdout == "base-one\nvector-formal\n"


def test_status_and_why_explain_a_changed_input(declared: Project) -> None:
    declared.build()
    checkpoint(declared.root / "formal", {"a": [3, 2]})
    assert declared.build("status").stdout == "fresh  base-one\nstale  vector-formal  folder changed\n"
    assert declared.build("why", "vector-formal").stdout == (
        "vector-formal:model is stale\n  folder changed\nvector-formal is unknown\n  vector-formal:model is not fresh\n"
    )


def test_show_gives_digest_files_and_lineage(declared: Project) -> None:
    assert declared.build("show", "vector-formal").stderr.startswith("error: vector-formal has no artifact yet\n")
    declared.build()
    found = declared.build("show", "vector-formal", "--json").json()
    assert found["lineage"] == {"base": "base-one", "model": "vector-formal:model"}
    assert list(found["files"]) == ["vector.json"]
    assert found["node"] == "formality"


def shell(project: Project, command: str, **env: str) -> subprocess.CompletedProcess:
    """A line of bash in the project, where `build` is the command; its status is that of the first part that failed."""
    line = f'set -o pipefail; build() {{ {sys.executable} -m buildsys "$@"; }}; {command}'
    given = {**os.environ, **env}
    return subprocess.run(["bash", "-c", line], cwd=project.root, env=given, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "command", ["build list | true", "build --help | true", "build 2>&1 | true", "build --json 2>&1 > out.json | true"]
)
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_pipe_that_is_closed_early_ends_quietly_and_fails_no_build(declared: Project, command: str, buffered: str) -> None:
    done = shell(declared, command, PYTHONUNBUFFERED=buffered)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    if "help" not in command and "list" not in command:
        assert declared.build().stderr == "up to date (2 targets)\n"
    if "json" in command:
        assert json.loads((declared.root / "out.json").read_text())["counts"]["built"] == 2


def test_a_build_that_fails_says_so_by_its_exit_code_whoever_listens(declared: Project) -> None:
    checkpoint(declared.root / "formal", {"a": [2, 2, 2]})
    for command in ("build 2>&1 | true", "build --json 2>&1 | true", "build -k >&- 2>&-"):
        assert shell(declared, command).returncode == 1
    for command in ("build nothere 2>/dev/full", "build nothere >&- 2>&-"):
        assert shell(declared, command).returncode == 2


def test_streams_that_are_closed_from_the_start_are_written_to_by_nobody(declared: Project) -> None:
    assert shell(declared, "build <&- >&- 2>&-").returncode == 0
    done = shell(declared, "build >&-")
    assert (done.returncode, done.stderr) == (0, "up to date (2 targets)\n")
    assert shell(declared, "build list 2>&-").stdout == "base-one\nvector-formal\n"


def test_a_build_leaves_nothing_in_the_folder_for_temporary_files(declared: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("temporary")
    assert declared.build(env={"TMPDIR": str(place)}).code == 0
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("name", ["numpy", "socket"])
def test_a_module_in_the_project_is_not_taken_for_a_librarys(declared: Project, name: str) -> None:
    """A project's own code runs only where the user has allowed it."""
    declared.file(f"{name}.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    script = Path(sys.executable).with_name("build")
    done = subprocess.run([script, "-q"], cwd=declared.root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (declared.root / "ran").exists()


def test_a_library_that_cannot_be_loaded_fails_what_needs_it_and_nothing_else(
    declared: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    declared.buildfile(BUILDFILE + "[merged.m]\nvectors = { formal = 1.0 }\nunverified = true\n")
    (elsewhere / "numba.py").write_text('raise RuntimeError("this library is broken")\n')
    ran = declared.build("merged-m", "-k", "--json", env={"PYTHONPATH": str(elsewhere)})
    assert ran.code == 1
    found = ran.json()["targets"]
    assert {name: one["state"] for name, one in found.items()} == {"base-one": "built", "vector-formal": "built", "merged-m": "failed"}
    assert "RuntimeError  this library is broken" in found["merged-m"]["error"]
    assert "Traceback" not in ran.stderr
    assert "numba.py" in Path(found["merged-m"]["log"]).read_text()


FULL = "error: the build could not go on: no space is left on the disk\nhint: free some space; what was finished before is kept\n"
TYPO = "error: there is no option --jsn\nhint: did you mean --json?\n"


@pytest.mark.parametrize(("arguments", "said"), [(["list"], FULL), (["list", "--json"], FULL), (["list", "--jsn", "--json"], TYPO)])
def test_an_output_that_cannot_be_written_is_an_error_without_a_traceback(declared: Project, arguments: list[str], said: str) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "buildsys", *arguments]
        done = subprocess.run(command, cwd=declared.root, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr == said


STUMBLING = """
import concurrent.futures.process as pool, time
from buildsys.cli import main

class Late(pool._ThreadWakeup):
    def close(self):
        time.sleep(0.5)
        super().close()

    def wakeup(self):
        open_still = not self._closed
        if pool._global_shutdown:
            time.sleep(1)
        if open_still:
            self._writer.send_bytes(b"")

pool._ThreadWakeup = Late
if __name__ == "__main__":
    main()
"""


def test_nothing_is_said_behind_an_error_however_the_interpreter_would_end(declared: Project) -> None:
    """The workers' pools say good-bye at exit, to threads that may have closed their pipes just then: one build in some thousands."""
    checkpoint(declared.root / "formal", {"a": [2, 2, 2]})
    declared.file("stumbling.py").write_text(STUMBLING)
    command = [sys.executable, "stumbling.py", "-kq"]
    done = subprocess.run(command, cwd=declared.root, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == declared.build("-kq").stderr


def test_a_foreign_cache_is_left_alone(declared: Project) -> None:
    declared.file("cache/keras/model.h5").write_text("x")
    ran = declared.build()
    assert ran.code == 1
    assert ran.stderr == (
        f"error: {declared.root}/cache was not made by build\n  holds  keras\n  lacks  FORMAT\n"
        "hint: move it away, or run from another project folder; nothing was written\n"
    )
    assert [path.name for path in (declared.root / "cache").iterdir()] == ["keras"]


def test_a_cache_of_another_format_is_refused(declared: Project) -> None:
    declared.file("cache/FORMAT").write_text("buildsys cache 0\n")
    assert declared.build().stderr.startswith(f"error: {declared.root}/cache has another format\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: the mode of a folder does not stop it")
def test_a_read_only_cache_is_a_clear_error(declared: Project) -> None:
    declared.build("base-one")
    (declared.root / "cache" / "tmp").chmod(0o555)
    ran = declared.build()
    assert ran.code == 1
    assert ran.stderr.startswith(f"error: {declared.root}/cache cannot be written: permission denied\n")


def mounted(folder: Path, options: str) -> bool:
    folder.mkdir(exist_ok=True)
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False).returncode == 0


def test_a_read_only_file_system_is_a_clear_error(declared: Project) -> None:
    cache = declared.root / "cache"
    if not mounted(cache, "ro"):
        pytest.skip("needs the right to mount a file system")
    try:
        ran = declared.build()
        assert ran.code == 1
        assert ran.stderr.startswith(f"error: {cache} cannot be written: the file system is read-only\n")
    finally:
        subprocess.run(["umount", cache], check=True)


def test_a_full_disk_fails_the_target_and_loses_nothing(declared: Project) -> None:
    big = {"a": [float(i) for i in range(200_000)]}  # 0.8 MB a model
    checkpoint(declared.root / "one", big)
    checkpoint(declared.root / "formal", {"a": [2.0 * i for i in range(200_000)]})
    declared.buildfile(BUILDFILE + "[merged.m]\nvectors = { formal = 1.0 }\nunverified = true\n")
    cache = declared.root / "cache"
    if not mounted(cache, "size=700k"):
        pytest.skip("needs the right to mount a file system")
    try:
        ran = declared.build("merged-m")
        assert ran.code == 1
        assert "no space is left on the disk" in ran.stderr
        assert "Traceback" not in ran.stderr
        assert not list(cache.glob("tmp/*"))
        assert not (cache / "out" / "merged-m").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", cache], check=True)
        again = declared.build("merged-m", "--json").json()
        assert again["targets"]["vector-formal"]["state"] == "fresh"
        assert again["targets"]["merged-m"]["state"] == "built"
    finally:
        subprocess.run(["umount", cache], check=True)


# interrupted builds: the vectors' rules are quick, so many of them give the signal something to hit

MANY = 40


@pytest.fixture
def many(project: Project) -> Project:
    lines = ["[build]", 'default = ["*"]', "[base.one]", 'path = "one"']
    checkpoint(project.root / "one", {"a": [0.0]})
    for number in range(MANY):
        checkpoint(project.root / f"m{number}", {"a": [float(number + 1)]})
        lines += [f"[vector.v{number}]", f'path = "m{number}"']
    project.buildfile("\n".join(lines) + "\n")
    return project


def started(project: Project, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "buildsys", "-q", *arguments]
    return subprocess.Popen(command, cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(project: Project, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list((project.root / "cache").glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.01)


def whole(project: Project) -> None:
    """The next build is right: everything is made, nothing is left over, and a further one has nothing to do."""
    ran = project.build()
    assert ran.code == 0, ran.stderr
    for number in range(MANY):
        record = json.loads((project.root / f"cache/out/vector-v{number}/vector.json").read_text())
        assert record["dtype"] == "float32"
    assert not list((project.root / "cache/tmp").iterdir())
    assert project.build().stderr == f"up to date ({MANY + 1} targets)\n"


def workers_of(project: Project) -> list[int]:
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if os.readlink(place / "cwd") == str(project.root):
                    found.append(int(place.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.2, 0.5])
def test_after_kill_9_no_worker_lives_on_and_the_next_build_is_right(many: Project, moment: float) -> None:
    build = started(many)
    wait_for(many, "actions/*/*.json")
    time.sleep(moment)
    build.kill()
    build.communicate()
    deadline = time.monotonic() + 10
    while workers_of(many) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert workers_of(many) == []
    whole(many)


def test_ctrl_c_ends_the_build_with_130_and_the_next_one_goes_on(many: Project) -> None:
    build = started(many)
    wait_for(many, "actions/*/*.json")
    build.send_signal(signal.SIGINT)
    _, stderr = build.communicate(timeout=30)
    assert build.returncode == 130
    assert stderr == "error: interrupted\nhint: what was finished is kept; a training goes on from its last checkpoint\n"
    deadline = time.monotonic() + 10
    while workers_of(many) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert workers_of(many) == []
    whole(many)


def test_two_builds_at_once_share_the_work(many: Project) -> None:
    """Bases only, each of one action: what one build makes, the other takes."""
    bases = [f'[base.b{number}]\npath = "m{number}"\n' for number in range(MANY)]
    many.buildfile('[build]\ndefault = ["*"]\n' + "".join(bases))
    both = [started(many, "--json"), started(many, "--json")]
    results = [json.loads(build.communicate(timeout=120)[0]) for build in both]
    assert [result["exit"] for result in results] == [0, 0]
    built = [name for result in results for name, one in result["targets"].items() if one["state"] == "built"]
    assert sorted(built) == sorted(f"base-b{number}" for number in range(MANY))
    assert many.build().stderr == f"up to date ({MANY} targets)\n"


def test_no_module_in_the_project_is_run_by_the_command_itself(declared: Project) -> None:
    for name in ("blake3", "click", "dataclasses", "json", "numpy", "pydantic", "tomli", "tomllib", "typing", "yaml"):
        declared.file(f"{name}.py").write_text(f"open({str(declared.root / 'HARM')!r}, 'w').write(__name__)\n")
    ran = declared.build()
    assert ran.code == 0, ran.stderr
    assert not (declared.root / "HARM").exists()
