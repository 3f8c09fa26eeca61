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
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from buildsys import rules
from buildsys.errors import BuildError, os_failure
from buildsys.machine import cores
from buildsys.progress import Progress

PRELOAD = "BUILDSYS_PRELOAD"  # environment of `forkserver`: the modules that it loads
Report = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Request:
    """One action as a worker sees it: paths and parameters, no target and no key."""

    rule: str
    parameters: Mapping[str, Any]
    paths: Mapping[str, Any]
    digests: Mapping[str, Any]
    out: Path
    folder: Path
    settings: Mapping[str, Any]
    log: Path
    cache: Path


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
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        quiet = "ignore:resource_tracker:UserWarning"  # it counts what a build that has ended left to it
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), quiet)))
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's products: sums in an order that no machine's load decides
        os.environ["PYTHONSAFEPATH"] = "1"  # a module in the project's folder is not taken for a library's
        os.environ[PRELOAD] = " ".join(self.preload)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["buildsys.forkserver"])

    def run(self, request: Request, report: Report) -> dict[str, Any]:
        """Run one action and return its facts. Raises its BuildError, or WorkerDied."""
        rule = rules.get(request.rule)
        slot = self._taken()
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
            self._back(slot)
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
            if slot.pid is None:  # the fork server is still loading; a worker that finds nobody to hear its first word ends
                continue
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


def leave_nothing() -> None:
    """Take away the folder of the fork server's socket, as the interpreter's own end would; this process starts no worker after it."""
    shutil.rmtree(multiprocessing.util.get_temp_dir(), ignore_errors=True)


_words: Connection | None = None  # of this worker process, to its build


def _begin(words: Connection) -> None:
    """In a new worker: a process group of its own, no Ctrl-C, an end when the build ends."""
    global _words
    _words = words
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
    rule = rules.get(request.rule)
    words = _words
    assert words is not None
    progress = Progress(request.folder, _seldom(words), request.settings, request.cache)
    with _last_word(words), _logged(request.log):
        try:
            params = rule.Params(**request.parameters)
            facts: dict[str, Any] = rule.run(rules.Inputs(request.paths, request.digests), params, request.out, progress)
            return facts
        except BuildError as error:
            print(error, file=sys.stderr)
            raise
        except OSError as error:
            traceback.print_exc()
            raise os_failure(error, "its rule could not go on") from error
        except MemoryError as error:
            traceback.print_exc()
            raise BuildError("there is not enough memory", hint="use a smaller batch, or fewer jobs with -j") from error
        except Exception as error:
            traceback.print_exc()
            reason = str(error).strip().splitlines()
            raise BuildError("its rule stopped with an unexpected error", [(type(error).__name__, reason[0] if reason else "")]) from None


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
