"""Faults at every point where the store touches the disk: the next build gives what a clean one gives, and nothing recorded is lost.

    python -m tests.faults [--seconds N] [--seed S]

A small build is run once to count its operations on the disk. Then it is run again for each operation and each kind of fault, in a process of
its own (forked, so that a crash is the end of a real process), and a further build has to put everything right.
"""

import argparse
import errno
import hashlib
import json
import os
import random
import shutil
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildsys import files
from buildsys.errors import BuildError
from buildsys.store import cache as caches
from tests.graphs import Node, World, correct

KINDS = ("crash before", "crash after", "torn", "power cut", "ENOSPC", "EIO", "short")
CRASHED, FAILED, RAW = 137, 1, 99


class FaultyDisk(files.Disk):
    """Counts what is asked of the disk; at one operation it fails in one way.

    torn       half of a write reaches the file, then the process dies
    power cut  the process dies, and what was not flushed is lost with it
    short      a write takes half of what it was given, as the system may at any time
    ENOSPC     this and every later write fails; EIO: this one operation does
    """

    def __init__(self, at: int = -1, kind: str = "", root: Path | None = None) -> None:
        self.at, self.kind, self.root = at, kind, root
        self.count = 0
        self.flushed: set[int] = set()

    def _fails(self, writes: bool = True) -> bool:
        """True at the operation that fails, and, where the disk is full, at every later one that needs room."""
        self.count += 1
        if self.count - 1 == self.at:
            if self.kind == "crash before":
                os._exit(CRASHED)
            if self.kind == "power cut":
                self._lose()
                os._exit(CRASHED)
            if self.kind == "EIO":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.kind == "ENOSPC" and writes and 0 <= self.at < self.count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.count - 1 == self.at

    def _lose(self) -> None:
        """About half of the files that this process wrote and did not flush keep their names and lengths, and lose their bytes."""
        assert self.root is not None
        for path in (self.root / "cache").rglob("*"):
            status = path.lstat()
            if (
                stat.S_ISREG(status.st_mode)
                and status.st_ino not in self.flushed
                and status.st_ctime_ns >= self.begun
                and self._chosen(path)
            ):
                os.chmod(path, 0o644)
                with open(path, "r+b") as file:
                    file.write(bytes(status.st_size))

    def _chosen(self, path: Path) -> bool:
        return random.Random(f"{self.at} {path.relative_to(self.root or path)}").random() < 0.5

    begun = 0

    def write(self, handle: int, data: bytes | memoryview) -> int:
        if self._fails():
            if self.kind in ("torn", "short"):
                written = os.write(handle, data[: max(1, len(data) // 2)])
                if self.kind == "torn":
                    os._exit(CRASHED)
                return written
            return self._after(os.write(handle, data))
        return os.write(handle, data)

    def read(self, handle: int, count: int) -> bytes:
        if self._fails(writes=False) and self.kind == "short":
            return os.read(handle, max(1, count // 2))
        return os.read(handle, count)

    def fsync(self, handle: int) -> None:
        hit = self._fails()
        os.fsync(handle)
        self.flushed.add(os.fstat(handle).st_ino)
        if hit:
            self._after(None)

    def rename(self, source: str, target: str) -> None:
        self._named(lambda: os.replace(source, target))

    def link(self, source: str, target: str) -> None:
        self._named(lambda: os.link(source, target))

    def unlink(self, path: str) -> None:
        self._named(lambda: os.unlink(path), writes=False)

    def copy(self, source: str, target: str) -> None:
        if self._fails() and self.kind == "torn":
            with open(source, "rb") as whole, open(target, "wb") as half:
                half.write(whole.read()[: os.path.getsize(source) // 2])
            os._exit(CRASHED)
        shutil.copyfile(source, target)

    def exchange(self, one: str, other: str) -> None:
        self._named(lambda: super(FaultyDisk, self).exchange(one, other))

    def _named(self, operation: Callable[[], None], *, writes: bool = True) -> None:
        hit = self._fails(writes)
        operation()
        if hit:
            self._after(None)

    def _after(self, value: Any) -> Any:
        if self.kind == "crash after":
            os._exit(CRASHED)
        return value


@dataclass(frozen=True)
class Version:
    """One state of a project."""

    nodes: dict[str, Node]
    texts: dict[str, str]

    def into(self, world: World) -> None:
        world.nodes = self.nodes
        for name, text in self.texts.items():
            world.write(name, text)


@dataclass(frozen=True)
class Case:
    """A project that was built as `first` says, edited to `second`, and built again on a disk that fails."""

    first: Version
    second: Version
    at: int
    kind: str


def build(world: World, *, force: bool = False) -> int:
    """0 where everything was made, 1 where something failed in our own words."""
    try:
        return world.build(jobs=1, keep_going=True, force=force, debug=True).exit_code  # a crash of the build is one of its step
    except BuildError:
        return FAILED


def forked(work: Callable[[], int]) -> int:
    """The exit code of a process that does this."""
    child = os.fork()
    if child == 0:
        code = RAW
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def operations(first: Version, second: Version) -> int:
    """How often the second build touches the disk."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        world = prepared(Path(folder), first)
        second.into(world)
        counted = Path(folder) / "counted"

        def work() -> int:
            files.disk = FaultyDisk()
            code = build(world)
            counted.write_text(str(files.disk.count))
            return code

        assert forked(work) == 0
        return int(counted.read_text())


def prepared(root: Path, first: Version) -> World:
    world = World(root)
    first.into(world)
    assert forked(lambda: build(world)) == 0
    return world


def recorded(world: World) -> dict[str, str]:
    """key -> digest of every artifact that could be used now."""
    cache = caches.Cache.open(world.root / "cache")
    found = {}
    for key in cache.records.keys():  # noqa: SIM118  # not a dictionary
        artifact, _ = cache.usable(key, cache.glance())
        if artifact is not None:
            found[key] = artifact.digest
    return found


def problems(case: Case, ends: Counter[str]) -> Iterator[str]:
    """What is wrong after a fault, in words that begin with `wrong`, `lost`, `raw` or `left`; nothing where all is well.

    ends  counts how the builds with a fault end
    """
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        root = Path(folder)
        world = prepared(root, case.first)
        before = recorded(world)
        case.second.into(world)

        def faulty() -> int:
            files.disk = FaultyDisk(case.at, case.kind, root)
            FaultyDisk.begun = time.time_ns()
            return build(world)

        time.sleep(0.01)  # a step of the file clock between what is flushed and what is not
        code = forked(faulty)
        ends[{0: "went on", FAILED: "failed in our words", CRASHED: "crashed"}.get(code, "otherwise")] += 1
        if code == RAW:
            yield "raw: an exception that is not ours"
        expected = correct(case.second.nodes, case.second.texts)
        if code == 0 and {name: world.texts().get(name) for name in case.second.nodes} != {n: expected[n] for n in case.second.nodes}:
            yield "wrong: the build said that all is well"
        if case.kind == "power cut":
            after_restart = forked(lambda: restarted(world, expected, {}))
        else:
            after_restart = forked(lambda: again(world, expected, {**before, **recorded(world)}))
        if after_restart:
            yield WORDS.get(after_restart, f"raw: the next build ended with {after_restart}")
        case.first.into(world)  # whatever happened, the first version is still known
        back = forked(lambda: restarted(world, None, {}) if case.kind == "power cut" else again(world, None, before))
        if back:
            yield WORDS.get(back, f"raw: going back ended with {back}")


WORDS = {10: "wrong: the next build failed", 11: "wrong: the next build gives other texts", 12: "lost: what was recorded was made again",
         13: "left: something in tmp/ or locks/", 14: "wrong: an object is damaged, or a record is not used"}  # fmt: skip


def again(world: World, expected: dict[str, str] | None, known: dict[str, str]) -> int:
    """A build on a disk that works; 0, or what is wrong with what it leaves."""
    if build(world):
        return 10
    if expected is not None and world.texts() != {name: expected[name] for name in world.nodes}:
        return 11
    keys = {name: step.resolved.key for name, step in world.plan().steps.items() if step.resolved}
    if any(keys[name] in known for name in world.ran()):
        return 12
    cache = world.root / "cache"
    if list((cache / "tmp").iterdir()) or list((cache / "locks").iterdir()):
        return 13
    store = caches.Cache.open(cache)
    whole = all(store.objects.verified(digest) for digest in store.objects.digests())
    used = all(store.records.read(key) is not None for key in keys.values())
    return 0 if whole and used else 14


def restarted(world: World, expected: dict[str, str] | None, known: dict[str, str]) -> int:
    """The same in another boot of the machine: what was not flushed may be made again.

    Files of zeros that nobody names may stay; what is named may not be one.
    """
    caches.this_boot = lambda: "another boot"
    code = again(world, expected, known)
    return 0 if code == 14 and all(world.plan().steps[name].state == "fresh" for name in world.nodes) else code


def scratch() -> str | None:
    """Memory, where there is a file system of it: a case writes a few hundred small files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def small() -> tuple[Version, Version]:
    """Four targets, one of them large enough to be linked into its output; an edit makes three of them again."""
    nodes = {
        "first": Node(["a"]),
        "second": Node(["first"], suffix="!"),
        "third": Node(["second", "b"], truncate=200_000),
        "side": Node(["b"]),
    }
    before = Version(nodes, {"a": "hello", "b": "b" * 70_000})
    return before, Version(nodes, {"a": "howdy", "b": "b" * 70_000})


def larger(source: random.Random) -> tuple[Version, Version]:
    """A random graph, and another that shares much with it."""
    names = [f"t{number}" for number in range(source.randint(3, 9))]
    texts = [{f"f{n}": source.choice("abc") * source.choice([1, 3, 66_000]) for n in range(3)} for _ in range(2)]
    texts[1] |= {name: text for name, text in texts[0].items() if source.random() < 0.5}

    def graph() -> dict[str, Node]:
        return {
            name: Node(source.sample(["f0", "f1", "f2", *names[:place]], source.randint(1, 3)), source.choice(["", "x", "yy"]))
            for place, name in enumerate(names)
        }

    first = graph()
    second = {name: node if source.random() < 0.6 else graph()[name] for name, node in first.items()}
    return Version(first, texts[0]), Version(second, texts[1])


def cases(seed: int) -> Iterator[Case]:
    """Every operation of a small build with every kind of fault, then random graphs without end."""
    first, second = small()
    yield from (Case(first, second, at, kind) for at in range(operations(first, second)) for kind in KINDS)
    source = random.Random(seed)
    while True:
        first, second = larger(source)
        number = operations(first, second)
        yield from (Case(first, second, source.randrange(number), source.choice(KINDS)) for _ in range(20))


def run(chosen: Iterator[Case], seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Cases until the time is up: how many of each kind, and what was wrong with which."""
    begun = said = time.monotonic()
    counts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    bad: list[str] = []
    for case in chosen:
        counts[case.kind] += 1
        bad += [f"{case.kind} at operation {case.at} ({name_of(case)}): {text}" for text in problems(case, ends)]
        now = time.monotonic()
        if now - said > 5:
            said = now
            say(f"{counts.total()} faults, {len(bad)} problems, {now - begun:.0f} s")
        if now - begun > seconds:
            break
    return {
        "faults": counts.total(),
        "kinds": dict(counts),
        "ends": dict(ends),
        "problems": bad,
        "seconds": round(time.monotonic() - begun, 1),
    }


def name_of(case: Case) -> str:
    """The same for the same graphs."""
    return hashlib.sha256(repr((case.first, case.second)).encode()).hexdigest()[:8]


def main() -> None:
    parser = argparse.ArgumentParser(description="Faults at every point where the store touches the disk")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="buildsys-faults-")
    first, second = small()
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    say(f"a small build touches the disk {operations(first, second)} times; seed {given.seed}")
    try:
        found = run(cases(given.seed), given.seconds, say)
    finally:
        shutil.rmtree(os.environ["XDG_CONFIG_HOME"])
    if given.json:
        print(json.dumps(found))
    else:
        print("\n".join([f"{kind:14} {number:6}" for kind, number in found["kinds"].items()]))
        starts = Counter(text.partition("): ")[2].partition(":")[0] for text in found["problems"])
        print(
            f"{found['faults']} faults in {found['seconds']} s: {', '.join(f'{starts[w]} {w}' for w in ('wrong', 'lost', 'raw', 'left'))}"
        )
        print("\n".join(found["problems"][:40]))
    raise SystemExit(bool(found["problems"]))


if __name__ == "__main__":
    main()
