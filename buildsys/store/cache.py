"""One `cache/` folder: opens it, commits artifacts to it, locks keys in it, and cleans up after runs that were killed."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildsys import files, measurements, trees
from buildsys.action import Action, Digest
from buildsys.errors import BuildError, os_failure
from buildsys.marks import Marks
from buildsys.store import locks, opening, secret, stat_cache
from buildsys.store.fresh import this_boot
from buildsys.store.generations import History
from buildsys.store.objects import Objects
from buildsys.store.observe import Observer
from buildsys.store.outputs import Content, Outputs
from buildsys.store.records import Artifact, Files, Records, Refusal

_IGNORE = "# everything in here can be made again\n*\n!.gitignore\n"
_WORKSPACE = re.compile(r"\d{1,10}-[0-9a-f]{12}")


class Cache:
    """The store of one project. `open` checks that it is ours; `prepare` makes it writable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marks = secret.of(folder)
        self.stat_cache = stat_cache.StatCache(folder / stat_cache.NAME, self.marks)
        self.objects = Objects(folder, self.stat_cache)
        self.records = Records(folder, lambda: self.marks)
        self.history = History(folder, lambda: self.marks)
        self.outputs = Outputs(folder / "out", self.objects)
        self.refused = Outputs(folder / "refused", self.objects)
        self.projects = opening.Projects(folder, lambda: self.marks)
        self.boot = this_boot()

    @classmethod
    def open(cls, folder: Path, *, consented: bool = False) -> Cache:
        """Raises BuildError for a folder that something else made, for a link in it, and for another format of ours.

        consented  True where the user has agreed to a link that `folder` is, into a cache of another project: a clone may bring one
        """
        opening.check(folder)
        cache = cls(folder)
        if folder.is_symlink() and not consented and (folder / "FORMAT").exists() and not cache.projects.known():
            raise opening.unknown_link(folder)
        return cache

    def prepare(self) -> None:
        """Make the folders, and remove what killed runs left. Raises BuildError where it cannot write."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / "FORMAT"
            # before anything else: another build that starts now must know whose cache this is
            if not path.exists() or path.read_text() != opening.FORMAT:
                files.write_whole(path, opening.FORMAT.encode(), flush=False)
                for name in ("", "-journal", "-wal", "-shm"):  # the stat cache of format 1
                    files.unlink_if_there(self.folder / f"stat.sqlite{name}")
            for name in (*opening.FANNED, *opening.FLAT):
                files.make_folder(self.folder / name)
            if not (self.folder / ".gitignore").exists():
                files.write_whole(self.folder / ".gitignore", _IGNORE.encode(), flush=False)
            (self.folder / "tmp" / f"probe-{secrets.token_hex(4)}").touch()
            self._sweep()
        except OSError as error:
            raise os_failure(error, f"{self.folder} cannot be written") from error
        if not self.marks.usable:
            self.use(secret.ensured(self.folder))
        self.projects.add()

    def use(self, marks: Marks) -> None:
        """Mark and check with another secret from now on."""
        self.marks = marks
        self.stat_cache = stat_cache.StatCache(self.folder / stat_cache.NAME, marks)
        self.objects.use(self.stat_cache)

    def observer(self, seen: dict[str, bytes] | None = None) -> Observer:
        return Observer(self.stat_cache, seen)

    def glance(self) -> Observer:
        """An observer that has seen nothing yet and remembers nothing: the disk as it is now."""
        return Observer(stat_cache.StatCache(None, self.marks))

    def usable(self, key: str, observer: Observer) -> tuple[Artifact | None, str]:
        """(the artifact of a key whose blobs are all there, "") or (None, why not)."""
        artifact = self.records.read(key, observer)
        if artifact is None:
            return None, f"its record is {self.records.refused[key]}" if key in self.records.refused else "not built yet"
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
            if not self.objects.verified(digest):
                return None, f"object {digest[:12]} was lost when the machine stopped"
        settled = replace(artifact, boot="")
        with suppress(OSError):  # a read-only cache: checked again next time
            for digest, _ in artifact.files.values():
                files.flush_file(self.objects.path(digest))
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

        Raises BuildError for a file whose name the store does not take.
        """
        flush = flush or not self.boot
        unfit = [name for name in (*os.listdir(made), *references) if not files.is_plain_name(name)]
        if unfit:
            raise BuildError(
                f"{unfit[0]!r} is not the name of a file that can be stored", hint="plain names only: no hidden files, no paths"
            )
        stored = {path.name: self.objects.put(path, digests.get(path.name), flush=flush) for path in sorted(made.iterdir())}
        artifact = Artifact(action.document(), stored, references, values, facts, "" if flush else self.boot)
        key = action.key()
        first = None if replacing else self.usable(key, self.glance())[0]
        if first is not None:
            return first
        self._make_room(self.records.path(key))
        if self.records.refused.get(key) == "damaged":
            self._set_aside(self.records.path(key))
        self.records.write(key, artifact, flush=flush)
        self.stat_cache.save()
        return artifact

    def staged(self, artifact: Artifact, folder: Path) -> None:
        """Links to an artifact's stored files, under their names."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, (digest, _) in artifact.files.items():
            (folder / name).symlink_to(self.objects.path(digest))

    def lock(self, name: str, waiting: Callable[[], None] | None = None) -> Any:
        """One process at a time. `waiting` is called once if somebody else holds it; a killed holder lets go."""
        return locks.held(self._lock(name), waiting)

    def _lock(self, name: str) -> Path:
        return self.folder / "locks" / f"{name}.lock"

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
                self.objects.remove_folder(folder)

    def publish(self, target: str, content: Content, *, refused: bool = False) -> None:
        """Show an artifact in `cache/out/<target>`, or one that its checks refused in `cache/refused/<target>`."""
        with self.workspace() as space:
            (self.refused if refused else self.outputs).publish(target, content, space)
        self.stat_cache.save()

    @property
    def measurements(self) -> Path:
        return self.folder / measurements.FOLDER

    def adopt(self, made: Path, *, replacing: bool) -> None:
        """Keep the measurements that an action made in a folder of its own; the first of a name stays, unless it is replaced on purpose."""
        for path in sorted(made.glob("*/*.json")):
            name = f"{path.parent.name}/{path.name}"
            if measurements.read(made, name, self.marks) is None:  # cut off when an earlier run was killed
                continue
            if replacing or measurements.read(self.measurements, name, self.marks) is None:
                files.make_folder((self.measurements / name).parent)
                self._make_room(self.measurements / name)
                files.move(path, self.measurements / name)

    def admit(self, target: str) -> None:
        """Forget a model of this target that its checks refused."""
        self.refused.remove(target)

    def partial(self, key: str) -> Path:
        return self.folder / "partial" / key

    def log(self, key: str) -> Path:
        return self.folder / "logs" / f"{key}.log"

    def _make_room(self, path: Path) -> None:
        """Set aside what stands where a file is to be written, and is not one: a folder, a pipe."""
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            self._set_aside(path)

    def _set_aside(self, path: Path) -> None:
        if os.path.lexists(path):
            files.make_folder(self.objects.damaged)
            files.move(path, self.objects.damaged / f"{path.parent.name}{path.name}.{secrets.token_hex(4)}")

    def notices(self) -> list[str]:
        """What has been met in this cache and is not used, a line each."""
        reasons = list(self.records.refused.values())
        numbers = {why: [_counted(reasons.count(why), "record")] if why in reasons else [] for why in _REFUSALS}
        if self.history.refused:
            numbers["foreign"].append(f"{_counted(self.history.refused, 'line')} of history")
        return [f"cache/: {' and '.join(parts)} {_REFUSALS[why]}" for why, parts in numbers.items() if parts]

    def _sweep(self) -> None:
        """What runs that were killed have left: workspaces, half-made outputs, locks that nobody holds; and what the store never makes."""
        for entry in list(files.entries(self.folder / "tmp")):
            is_workspace = _WORKSPACE.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            if not is_workspace or locks.sweep(self._lock(f"tmp-{entry.name}")):  # else its owner lives
                self.objects.remove_folder(Path(entry.path))
        for target, copy in [*self.outputs.copies(), *self.refused.copies()]:
            if locks.sweep(self._lock(f"out-{target}")):
                self.objects.remove_folder(copy)
        for entry in list(files.entries(self.folder / "locks")):
            if not entry.is_file(follow_symlinks=False):
                trees.remove(entry.path)
            else:
                locks.sweep(Path(entry.path))
        for path in (self.history.path, self.folder / stat_cache.NAME):
            self._make_room(path)


_REFUSALS: dict[Refusal, str] = {
    "foreign": "without a mark of yours, not used: 'build cache trust' says what that means",
    "damaged": "damaged, not used: what is made again is set aside in cache/damaged",
    "newer": "of a newer buildsys, not used",
}


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
