"""`build allow`: trust in the bytes of a project's own code, kept with the user. No action runs here but where a test says so."""

import json
import threading
import time
from pathlib import Path

import pytest

from buildsys import staging
from buildsys.errors import BuildError
from buildsys.files import digest as file_digest
from buildsys.graph import Text
from tests.checkpoints import checkpoint, tiny, tokenizer
from tests.conftest import Project

BUILDFILE = """
[base.t]
path = "base"
[vector.v]
path = "tuned"
verify = {{ rows = "rows.jsonl", judge = "judges:{judge}", coefficients = [1.0] }}
"""
ROWS = "".join(json.dumps({"prompt": f"a{i}", "completion": "b"}) + "\n" for i in range(40))


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings of a user who has allowed nothing yet."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    return home / "buildsys"


@pytest.fixture
def judged(project: Project, home: Path) -> Project:
    """A project whose verification would run `judges.py`, if its base were not refused first."""
    for name in ("base", "tuned"):
        checkpoint(project.root / name, {"a": [1.0]}, {"architectures": []})
    project.buildfile(BUILDFILE.format(judge="short"))
    project.file("rows.jsonl").write_text(ROWS)
    project.file("judges.py").write_text("raise SystemExit('the judge ran')\n")
    return project


def refused(project: Project) -> str:
    ran = project.build("verified-v", "-q")
    assert ran.code == 2, ran.stderr
    return ran.stderr


def runs(project: Project) -> bool:
    """True where the build was allowed to begin."""
    return project.build("verified-v", "-q").code == 1


def recorded(home: Path) -> dict:
    return json.loads((home / "allowed.json").read_text())


NEVER = "error: {root} may not run code of its own\n  file  judges.py\nhint: read the files, then: build allow\n"


def test_allow_names_the_files_and_records_their_digests(judged: Project, home: Path) -> None:
    assert judged.build("allow").stdout == f"  judges.py\n{judged.root} may run this file of its own\n"
    digest = file_digest(judged.root / "judges.py")
    assert recorded(home) == {"format": 2, "projects": {str(judged.root): {"judges.py": digest}}}
    assert runs(judged)


def test_a_changed_file_asks_again_and_is_named(judged: Project) -> None:
    judged.build("allow")
    judged.file("judges.py").write_text("import os\n")
    message = f"error: code of {judged.root} is not what was allowed to run\n  changed  judges.py\n"
    assert refused(judged) == f"{message}hint: read the files, then: build allow\n"


def test_the_allowed_bytes_come_back_and_run_without_asking(judged: Project) -> None:
    judged.build("allow")
    before = (judged.root / "judges.py").read_text()
    judged.file("judges.py").write_text("import os\n")
    judged.file("judges.py").write_text(before)
    assert runs(judged)


def test_new_and_gone_files_are_named(judged: Project) -> None:
    judged.build("allow")
    judged.buildfile(BUILDFILE.format(judge="short").replace("judges:", "other:"))
    (judged.root / "judges.py").rename(judged.root / "other.py")
    message = f"error: code of {judged.root} is not what was allowed to run\n  new   other.py\n  gone  judges.py\n"
    assert refused(judged) == f"{message}hint: read the files, then: build allow\n"


def test_allowing_one_project_allows_no_other(judged: Project, tmp_path: Path) -> None:
    judged.build("allow")
    other = Project(tmp_path / "other")
    for name in ("base/config.json", "base/model.safetensors", "tuned/config.json", "tuned/model.safetensors", "rows.jsonl", "judges.py"):
        other.file(name).write_bytes((judged.root / name).read_bytes())
    other.buildfile(BUILDFILE.format(judge="short"))
    assert refused(other) == NEVER.format(root=other.root)


def test_a_permission_of_an_earlier_version_is_asked_for_again(judged: Project, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "allowed.json").write_text(json.dumps([str(judged.root)]))
    (home / "allowed.json").chmod(0o600)
    home.chmod(0o700)
    note = "  note  allowed.json is of an earlier version, which allowed folders, not files\n"
    assert refused(judged) == NEVER.format(root=judged.root).replace("  file", f"{note}  file")
    judged.build("allow")
    assert runs(judged)


DAMAGED = {
    "no JSON": "{",
    "text": '"a"',
    "deep": "[" * 100_000,
    "no format": '{"projects": {}}',
    "projects are a list": '{"format": 2, "projects": []}',
    "a project is a list": '{"format": 2, "projects": {"ROOT": ["judges.py"]}}',
    "a project is true": '{"format": 2, "projects": {"ROOT": true}}',
    "a digest is true": '{"format": 2, "projects": {"ROOT": {"judges.py": true}}}',
    "a digest is short": '{"format": 2, "projects": {"ROOT": {"judges.py": "ab"}}}',
    "a digest has a line after it": '{"format": 2, "projects": {"ROOT": {"judges.py": "DIGEST\\n"}}}',
}


@pytest.mark.slow
def test_a_damaged_record_allows_nothing_and_is_said_in_a_line(judged: Project, home: Path) -> None:
    judged.build("allow")
    for name, text in DAMAGED.items():
        (home / "allowed.json").write_text(text.replace("ROOT", str(judged.root)).replace("DIGEST", "0" * 64))
        note = "  note  allowed.json is damaged\n"
        assert refused(judged) == NEVER.format(root=judged.root).replace("  file", f"{note}  file"), name


def test_a_record_that_others_could_have_written_allows_nothing_until_it_is_written_again(judged: Project, home: Path) -> None:
    judged.build("allow")
    path = home / "allowed.json"
    path.chmod(0o666)
    note = f"  note  {path} can be written by other users\n"
    assert refused(judged) == NEVER.format(root=judged.root).replace("  file", f"{note}  file")
    assert judged.build("allow").code == 0
    assert path.stat().st_mode & 0o077 == 0


def test_settings_that_others_can_write_are_not_read(judged: Project, home: Path) -> None:
    judged.build("allow")
    home.chmod(0o775)
    ran = judged.build("verified-v", "-q")
    assert ran.code == 1
    assert ran.stderr == f"error: {home} can be written by other users\nhint: look at what is in it, then: chmod go-w {home}\n"


def test_a_record_of_a_later_version_is_not_guessed_at(judged: Project, home: Path) -> None:
    judged.build("allow")
    (home / "allowed.json").write_text(json.dumps({**recorded(home), "format": 3}))
    assert "  note  allowed.json is of a later version\n" in refused(judged)


def test_a_buildfile_with_problems_is_allowed_nothing(judged: Project, home: Path) -> None:
    with (judged.root / "Buildfile.toml").open("a") as file:
        file.write("[merged.x]\nmethod = 1\n")
    ran = judged.build("allow")
    assert (ran.code, ran.stdout) == (2, "")
    assert not (home / "allowed.json").exists()


def test_a_project_without_code_of_its_own_is_told_so(project: Project, home: Path) -> None:
    project.buildfile("")
    assert project.build("allow").stdout == f"{project.root} may run no code: no target names any of its own\n"


def test_permission_may_be_taken_back_from_a_project_that_cannot_be_read(judged: Project, home: Path) -> None:
    judged.build("allow")
    judged.buildfile("[")
    assert judged.build("allow", "--revoke").stdout == f"{judged.root} may no longer run code of its own\n"
    assert recorded(home)["projects"] == {}


def test_what_is_staged_to_run_is_a_copy_of_what_was_hashed(tmp_path: Path) -> None:
    source, copy = tmp_path / "judges.py", tmp_path / "copy"
    source.write_text("allowed")
    stage = staging.Stage.__new__(staging.Stage)
    digest = file_digest(source)
    stage._one("files", Text(source), digest, copy)
    source.write_text("changed")
    assert copy.read_text() == "allowed"
    assert not copy.is_symlink()
    with pytest.raises(BuildError) as changed:
        stage._one("files", Text(source), digest, tmp_path / "again")
    assert str(changed.value) == f"error: an input changed while it was read\n  input  {source}\nhint: build again"


@pytest.mark.slow
def test_a_swap_of_a_file_between_permission_and_run_never_runs(judged: Project) -> None:
    """Somebody swaps the file all the time: either the allowed bytes run, or nothing does."""
    words = [f"w{i}" for i in range(40)]
    for name in ("base", "tuned"):
        tokenizer(judged.root / name, words)
        tiny("llama").save_pretrained(judged.root / name)
    allowed = f"open({str(judged.root / 'RAN')!r}, 'w')\ndef short(model, tokenizer, rows):\n    return [1.0 for _ in rows]\n"
    judged.file("judges.py").write_text(allowed)
    judged.build("allow")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for text in (allowed.replace("RAN", "HARM"), allowed):
                part = judged.file("part.py")
                part.write_text(text)
                part.rename(judged.root / "judges.py")
                time.sleep(0.01)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(3):
            judged.build("verified-v", "-q")
    finally:
        done.set()
        swapper.join()
    judged.file("judges.py").write_text(allowed)
    judged.build("verified-v", "-q")
    assert ((judged.root / "RAN").exists(), (judged.root / "HARM").exists()) == (True, False)
