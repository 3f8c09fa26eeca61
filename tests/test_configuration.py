"""The folder of the user's own settings: private, replaced in one step, never through a link."""

import os
import stat
from pathlib import Path

import pytest

from buildsys import configuration
from buildsys.errors import BuildError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    return tmp_path / "settings" / "buildsys"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_written_is_read(folder: Path) -> None:
    assert configuration.read("a.json") is None
    configuration.write("a.json", b"one")
    configuration.write("a.json", b"two")
    assert configuration.read("a.json") == b"two"
    assert os.listdir(folder) == ["a.json"]


def test_a_relative_home_of_settings_is_not_looked_for_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "settings")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert configuration.folder() == tmp_path / ".config" / "buildsys"


def test_only_the_user_may_read_what_is_written_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        configuration.write("secret", b"")
    finally:
        os.umask(before)
    assert (mode(folder), mode(folder / "secret")) == (0o700, 0o600)


def test_a_folder_that_was_made_open_is_closed_when_it_is_written(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    configuration.write("secret", b"")
    assert mode(folder) == 0o700


def test_a_link_is_replaced_and_what_it_leads_to_stays(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    folder.mkdir(parents=True)
    (folder / "a.json").symlink_to(tmp_path / "victim")
    configuration.write("a.json", b"new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert configuration.read("a.json") == b"new"


def refusal(name: str = "a.json") -> str:
    with pytest.raises(BuildError) as refused:
        configuration.read(name)
    return str(refused.value)


def test_a_link_is_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    folder.mkdir(parents=True)
    (folder / "a.json").symlink_to(tmp_path / "elsewhere")
    assert refusal() == f"error: {folder}/a.json is a link\nhint: settings are kept in a file itself: move it there"


def test_a_folder_that_is_a_link_is_neither_read_nor_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    message = f"error: {folder} is a link\nhint: settings are kept in a folder itself: move it there"
    assert refusal() == message
    with pytest.raises(BuildError) as refused:
        configuration.write("a.json", b"")
    assert str(refused.value) == message
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_file_that_others_can_write_is_not_read(folder: Path) -> None:
    configuration.write("a.json", b"")
    (folder / "a.json").chmod(0o620)
    message = f"error: {folder}/a.json can be written by other users\n  mode  0620\n"
    assert refusal() == f"{message}hint: look at what is in it, then: chmod go-w {folder}/a.json"


def test_a_folder_that_others_can_write_is_not_read(folder: Path) -> None:
    configuration.write("a.json", b"")
    folder.chmod(0o720)
    message = f"error: {folder} can be written by other users\n  mode  0720\n"
    assert refusal() == f"{message}hint: look at what is in it, then: chmod go-w {folder}"


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.mkfifo(folder / "a.json")
    assert refusal() == f"error: {folder}/a.json is not a regular file\nhint: move it away"


def test_a_folder_in_place_of_a_file_is_named(folder: Path) -> None:
    (folder / "a.json").mkdir(parents=True)
    assert refusal() == f"error: {folder}/a.json is not a regular file\nhint: move it away"
    with pytest.raises(BuildError) as refused:
        configuration.write("a.json", b"")
    assert str(refused.value).splitlines()[0] == f"error: {folder}/a.json could not be written: Is a directory"
    assert os.listdir(folder) == ["a.json"]
