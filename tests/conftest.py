"""Shared by all tests: a fresh project folder, and `build` run as a user runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REAL = Path(os.environ.get("BUILDSYS_REAL", Path(__file__).parents[2] / "shared" / "real"))


@dataclass(frozen=True)
class Ran:
    code: int
    stdout: str
    stderr: str

    def json(self) -> dict:
        return json.loads(self.stdout)


@dataclass
class Project:
    """A project folder and the command in it."""

    root: Path

    def write(self, **files: str) -> None:
        for name, text in files.items():
            self.file(name.replace("__", ".")).write_text(text)

    def file(self, name: str) -> Path:
        place = self.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def buildfile(self, text: str) -> None:
        self.file("Buildfile.toml").write_text(text)

    def share(self, cache: Path) -> None:
        """Use the cache of another project through a link, as after `build cache trust`."""
        from buildsys.store.cache import Cache

        (self.root / "cache").symlink_to(cache)
        Cache.open(self.root / "cache", consented=True).projects.add()

    def build(self, *arguments: str, env: dict[str, str] | None = None, stdin: str | None = None) -> Ran:
        found = subprocess.run(
            [sys.executable, "-m", "buildsys", *arguments],
            cwd=self.root,
            env={**os.environ, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        return Ran(found.returncode, found.stdout, found.stderr)


@pytest.fixture(scope="session", autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's settings of this run: no test reads or writes those of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("settings")))
        yield


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder with the real model and behaviours."""
    if not REAL.exists():
        pytest.skip(f"needs the real model in {REAL}; BUILDSYS_REAL names another place")
    return REAL
