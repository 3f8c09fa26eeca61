"""Locks between builds: files in `cache/locks/` that are there only while somebody holds or wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from buildsys.files import unlink_if_there


@contextmanager
def held(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """One process, and one thread of it, at a time; `waiting` is called once if somebody else holds it. A killed holder lets go."""
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting:
            waiting()
        lock.acquire(poll_interval=0.05)
    try:
        yield
    finally:
        _release(path, lock)


def sweep(path: Path) -> bool:
    """Remove a lock that nobody holds; False where somebody does."""
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    _release(path, lock)
    return True


def _lock(path: Path) -> FileLock:
    return FileLock(path, thread_local=False)


def _release(path: Path, lock: FileLock) -> None:
    try:
        unlink_if_there(path)  # before it is let go: who waits for this very file finds that it has no name, and begins anew
    finally:
        lock.release()
