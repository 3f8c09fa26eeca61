"""Where an action runs: processes that start warm, take one action at a time, and never outlive the build. Knows no store."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import multiprocessing.util
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from buildsys import failures, rules
from buildsys.errors import BuildError
from buildsys.machine import cores
from buildsys.running import Report, Request, facts_of, set_environment

PRELOAD = "BUILDSYS_PRELOAD"  # environment of `forkserver`: the modules that it loads
FOLDER = "/"  # where workers run: libraries look into the current folder for settings and data, and the project's is somebody else's


class WorkerDied(BuildError):
    """The process ended without a word: killed, or out of memory."""


@dataclass
class _Slot:
    """One worker process, replaced when it dies."""

    executor: ProcessPoolExecutor
    messages: Connection
    pid: int | None = None


@dataclass
class Workers:
    """A worker for every action that runs at once. `preload` is loaded once, in the fork server that all of them are forked from."""

    preload: tuple[str, ...]
    _idle: list[_Slot] = field(default_factory=list)
    _all: list[_Slot] = field(default_factory=list)
    _threads: dict[int, int] = field(default_factory=dict)  # what THREADED rules were given, while they run
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        set_environment()
        os.environ[PRELOAD] = " ".join(self.preload)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["buildsys.forkserver"])

    def run(self, request: Request, report: Report) -> dict[str, Any]:
        """Run one action and return its facts. Raises its BuildError, or WorkerDied."""
        rule = rules.get(request.rule)
        slot, future = self._taken(), None
        if getattr(rule, "THREADED", False):
            with self._lock:
                threads = self._threads[id(slot)] = max(1, cores() - sum(self._threads.values()))
            request = replace(request, settings={**request.settings, "threads": threads})
        try:
            future = _submitted(slot, request)
            self._listen(slot, future, report)
            facts: dict[str, Any] = future.result()
        except BrokenProcessPool as error:
            self._drop(slot)
            pid = f"process {slot.pid}" if slot.pid else "before it could begin"
            raise WorkerDied("its worker died", [("worker", pid)], "killed, or out of memory; the build goes on without it") from error
        except BaseException:
            if future is None or future.done():
                self._back(slot)
            else:  # whoever hears the progress failed: the action still runs, and its worker can take no other
                self._end(slot)
                self._drop(slot)
            raise
        self._back(slot)
        return facts

    def close(self) -> None:
        """End every worker now, whatever it does."""
        with self._lock:
            slots, self._all, self._idle = self._all, [], []
        for slot in slots:
            if slot.pid is None:
                with contextlib.suppress(EOFError, OSError):
                    while slot.pid is None and slot.messages.poll(0):
                        self._heard(slot, slot.messages.recv(), lambda text, share: None)
            self._end(slot)

    def _end(self, slot: _Slot) -> None:
        if slot.pid is None:  # the fork server is still loading; a worker that finds nobody to hear its first word ends
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(slot.pid, signal.SIGKILL)
        slot.executor.shutdown(wait=False, cancel_futures=True)

    def _listen(self, slot: _Slot, future: Future[dict[str, Any]], report: Report) -> None:
        """Hear everything that a worker says until its last word; one that died says none, but its future ends."""
        while True:
            try:
                if slot.messages.poll(0.2):
                    if self._heard(slot, slot.messages.recv(), report):
                        return
                elif future.done():
                    return
            except (EOFError, OSError):
                return

    def _heard(self, slot: _Slot, message: tuple[str, Any, Any], report: Report) -> bool:
        """True for the last word of an action."""
        kind, first, second = message
        if kind == "pid":
            slot.pid = first
        elif kind == "progress":
            report(first, second)
        return kind == "ended"

    def _taken(self) -> _Slot:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            _choose_socket_folder()
            messages, words = self._context.Pipe(duplex=False)
            executor = ProcessPoolExecutor(1, mp_context=self._context, initializer=_begin, initargs=(words,))
            slot = _Slot(executor, messages)
            self._all.append(slot)
            return slot

    def _back(self, slot: _Slot) -> None:
        with self._lock:
            self._threads.pop(id(slot), None)
            if slot in self._all:
                self._idle.append(slot)

    def _drop(self, slot: _Slot) -> None:
        with self._lock:
            self._threads.pop(id(slot), None)
            if slot in self._all:
                self._all.remove(slot)
        slot.executor.shutdown(wait=False)


def _submitted(slot: _Slot, request: Request) -> Future[dict[str, Any]]:
    """The action, handed to a worker that may have to be started. Raises BrokenProcessPool where it cannot be.

    The process that workers are forked from inherits this thread's signal mask: a terminal's Ctrl-C is for the build, not for those.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return slot.executor.submit(_perform, request)
    except (EOFError, OSError) as error:
        raise BrokenProcessPool("the process that workers are forked from has ended") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_SOCKET_FOLDER_BYTES_MAX = 70  # a socket's path has 103 bytes at most on some systems, and two names of 32 bytes follow


def _choose_socket_folder() -> None:
    """Let `multiprocessing` keep the fork server's socket where its path is short enough, whatever TMPDIR says.

    Raises BuildError where there is no such folder.
    """
    before = tempfile.tempdir
    for folder in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm"):
        if folder and os.path.isabs(folder) and len(os.fsencode(folder)) <= _SOCKET_FOLDER_BYTES_MAX:
            tempfile.tempdir = folder
            try:
                multiprocessing.util.get_temp_dir()  # made once, and remembered by the process
            except OSError:
                continue
            finally:
                tempfile.tempdir = before
            return
    hint = "set TMPDIR to a folder with a short path that can be written"
    raise BuildError("there is no folder for the socket of the workers", [("TMPDIR", os.environ.get("TMPDIR", "is not set"))], hint)


def leave_nothing() -> None:
    """Take away the folder of the fork server's socket, as the interpreter's own end would; this process starts no worker after it."""
    shutil.rmtree(multiprocessing.util.get_temp_dir(), ignore_errors=True)


_words: Connection | None = None  # of this worker process, to its build


def _begin(words: Connection) -> None:
    """In a new worker: a process group and a folder of its own, no Ctrl-C, an end when the build ends."""
    global _words
    _words = words
    os.chdir(FOLDER)  # `multiprocessing` takes it to the folder of the build
    with contextlib.suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        words.send(("pid", os.getpid(), None))
    except OSError:  # the build was interrupted while this worker was being started, and hears nobody
        os._exit(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()  # what was loaded is no garbage
    gc.enable()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _perform(request: Request) -> dict[str, Any]:
    words = _words
    assert words is not None
    with _last_word(words), _logged(request.log):
        try:
            return facts_of(request, _seldom(words))
        except BuildError as error:
            print("\n".join(failures.chain(error) if error.__cause__ else error.lines()), file=sys.stderr)
            raise


def _seldom(words: Connection) -> Report:
    """Pass progress on at most twenty times a second: nobody reads faster."""
    last = 0.0

    def report(text: str, share: float | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 0.05:
            last = now
            words.send(("progress", text, share))

    return report


@contextlib.contextmanager
def _last_word(words: Connection) -> Iterator[None]:
    """Wake the build up: the result follows on another way."""
    try:
        yield
    finally:
        words.send(("ended", None, None))


@contextlib.contextmanager
def _logged(log: Path) -> Iterator[None]:
    """Everything that the action prints, from C as well, goes into its log."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, kept in enumerate(saved, 1):
            os.dup2(kept, target)
            os.close(kept)
