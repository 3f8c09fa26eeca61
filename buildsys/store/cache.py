"""One `cache/` folder: opens it, commits artifacts to it, locks keys in it, and cleans up after runs that were killed."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from buildsys.action import Action, Digest
from buildsys.errors import BuildError, os_failure
from buildsys.measurements import FOLDER as MEASURED
from buildsys.measurements import sound
from buildsys.store.fresh import this_boot
from buildsys.store.objects import Objects, flush_file, write_whole
from buildsys.store.observe import Observer
from buildsys.store.outputs import Content, Outputs
from buildsys.store.records import Artifact, Files, Records

FORMAT = "buildsys cache 1\n"
_OWN = {".gitignore", "FORMAT"}  # what may stand in a cache that has never been used
_IGNORE = "# everything in here can be made again\n*\n!.gitignore\n"


class Cache:
    """The store of one project. `open` checks that it is ours; `prepare` makes it writable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = Objects(folder)
        self.records = Records(folder)
        self.outputs = Outputs(folder / "out", self.objects)
        self.refused = Outputs(folder / "refused", self.objects)
        self.boot = this_boot()

    @classmethod
    def open(cls, folder: Path) -> Cache:
        """Raises BuildError for a folder that something else made, or another format of ours."""
        try:
            names = {name for name in os.listdir(folder) if not name.startswith(".FORMAT.")} if folder.exists() else set()
            place = folder / "FORMAT"  # looked for after the listing: it is the first that a build writes
            mark = place.read_text() if place.exists() else None
        except OSError as error:
            raise os_failure(error, f"{folder} cannot be read") from error
        if mark is None and names - _OWN:
            raise BuildError(
                f"{folder} was not made by build",
                [("holds", ", ".join(sorted(names)[:5])), ("lacks", "FORMAT")],
                "move it away, or run from another project folder; nothing was written",
            )
        if mark not in (None, FORMAT):
            raise BuildError(
                f"{folder} has another format",
                [("found", mark.strip() or "nothing"), ("expected", FORMAT.strip())],
                "delete it: what it holds can be made again",
            )
        return cls(folder)

    def prepare(self) -> None:
        """Make the folders, and remove what killed runs left in `tmp/`. Raises BuildError where it cannot write."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "FORMAT").exists():  # before anything else: another build that starts now must know whose cache this is
                write_whole(self.folder / "FORMAT", FORMAT.encode(), flush=False)
            for name in ("objects", "actions", "out", "refused", "partial", "logs", "tmp", "locks", "fresh"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            if not (self.folder / ".gitignore").exists():
                write_whole(self.folder / ".gitignore", _IGNORE.encode(), flush=False)
            (self.folder / "tmp" / f"probe-{secrets.token_hex(4)}").touch()
            self._sweep()
        except OSError as error:
            raise os_failure(error, f"{self.folder} cannot be written") from error

    def observer(self, seen: dict[str, bytes] | None = None) -> Observer:
        return Observer(self.folder / "stat.sqlite", seen)

    def usable(self, key: str, observer: Observer) -> tuple[Artifact | None, str]:
        """(the artifact of a key whose blobs are all there, "") or (None, why not)."""
        artifact = self.records.read(key, observer)
        if artifact is None:
            return None, "not built yet"
        for digest, size in artifact.files.values():
            problem = self.objects.problem(digest, size, observer)
            if problem:
                return None, problem
        if artifact.boot and artifact.boot != self.boot:
            return self._after_unclean_stop(key, artifact, observer)
        return artifact, ""

    def _after_unclean_stop(self, key: str, artifact: Artifact, observer: Observer) -> tuple[Artifact | None, str]:
        """Recorded before the disk had it, and the machine has restarted since: believe the bytes, not the record."""
        for digest, _ in artifact.files.values():
            if observer.digest(self.objects.path(digest)) != digest:
                return None, f"object {digest[:12]} was lost when the machine stopped"
        settled = replace(artifact, boot="")
        with suppress(OSError):  # a read-only cache: checked again next time
            for digest, _ in artifact.files.values():
                flush_file(self.objects.path(digest))
            self.records.write(key, settled, flush=True)
            observer.forget(self.records.path(key))
        return settled, ""

    def commit(
        self,
        action: Action,
        made: Path,
        references: Files,
        values: Mapping[str, Any],
        facts: Mapping[str, Any],
        digests: Mapping[str, Digest],
        *,
        flush: bool,
        replacing: bool = False,
    ) -> Artifact:
        """Move everything in the folder `made` into the store, then record it: the first record of a key stays.

        digests  of files that were hashed as they were written
        """
        flush = flush or not self.boot
        files = {path.name: self.objects.put(path, digests.get(path.name), flush=flush) for path in sorted(made.iterdir())}
        artifact = Artifact(action.document(), files, references, values, facts, "" if flush else self.boot)
        key = action.key()
        first = None if replacing else self.usable(key, Observer(None))[0]
        if first is not None:
            return first
        self.records.write(key, artifact, flush=flush)
        return artifact

    def staged(self, artifact: Artifact, folder: Path) -> None:
        """Links to an artifact's stored files, under their names."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, (digest, _) in artifact.files.items():
            (folder / name).symlink_to(self.objects.path(digest))

    @contextmanager
    def lock(self, name: str, waiting: Any = None) -> Iterator[None]:
        """One process at a time. `waiting` is called once if somebody else holds it; a killed holder lets go."""
        lock = FileLock(self.folder / "locks" / f"{name}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting:
                waiting()
            lock.acquire(poll_interval=0.05)
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder in `tmp/` for one action, gone afterwards; one that a killed run leaves is swept by the next."""
        name = f"{os.getpid()}-{secrets.token_hex(6)}"
        folder = self.folder / "tmp" / name
        with self.lock(f"tmp-{name}"):
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        (self.folder / "locks" / f"tmp-{name}.lock").unlink(missing_ok=True)

    def publish(self, target: str, content: Content, *, refused: bool = False) -> None:
        """Show an artifact in `cache/out/<target>`, or one that its checks refused in `cache/refused/<target>`."""
        with self.workspace() as space:
            (self.refused if refused else self.outputs).publish(target, content, space)

    @property
    def measurements(self) -> Path:
        return self.folder / MEASURED

    def adopt(self, made: Path, *, replacing: bool) -> None:
        """Keep the measurements that an action made in a folder of its own; the first of a name stays, unless it is replaced on purpose."""
        for path in sorted(made.glob("*/*.json")):
            place = self.measurements / path.parent.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            if replacing or not sound(place):
                path.replace(place)

    def admit(self, target: str) -> None:
        """Forget a model of this target that its checks refused."""
        shutil.rmtree(self.refused.path(target), ignore_errors=True)

    def partial(self, key: str) -> Path:
        return self.folder / "partial" / key

    def log(self, key: str) -> Path:
        return self.folder / "logs" / f"{key}.log"

    def _sweep(self) -> None:
        for left in (self.folder / "tmp").iterdir():
            if not left.is_dir():
                left.unlink(missing_ok=True)
                continue
            place = self.folder / "locks" / f"tmp-{left.name}.lock"
            lock = FileLock(place)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue  # its owner lives
            shutil.rmtree(left, ignore_errors=True)
            lock.release()
            place.unlink(missing_ok=True)
