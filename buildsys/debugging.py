"""Where an action runs for a debugger: this process, one at a time. `breakpoint()` in a rule, a judge or a library has the terminal."""

from __future__ import annotations

import bdb
import gc
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from buildsys import failures, rules
from buildsys.errors import BuildError
from buildsys.machine import cores
from buildsys.running import Report, Request, facts_of, set_environment
from buildsys.workers import FOLDER


class InProcess:
    """What `Workers` is to a build, without a process of its own: what an action prints is on the terminal, and no log takes it away."""

    def __init__(self) -> None:
        set_environment()

    def run(self, request: Request, report: Report) -> dict[str, Any]:
        """Run one action and return its facts. Raises its BuildError, and KeyboardInterrupt where the debugger was left."""
        if getattr(rules.get(request.rule), "THREADED", False):
            request = replace(request, settings={**request.settings, "threads": cores()})
        try:
            with _restored():
                return facts_of(request, report)
        except BuildError as error:
            if isinstance(error.__cause__, bdb.BdbQuit):
                raise KeyboardInterrupt from error
            if error.hint == failures.HINT:
                error.hint = ""  # it is shown already
            failures.logged(error, request.log.parent, request.log.name)
            raise

    def close(self) -> None:
        """Nothing of it runs beside the build."""


@contextmanager
def _restored() -> Iterator[None]:
    """Put back what an action changes for its whole process: the next one finds what a new worker would."""
    folder, environment, path = os.getcwd(), dict(os.environ), list(sys.path)
    numbers, collecting, threads = random.getstate(), gc.isenabled(), _threads()
    sys.path[:] = [place for place in path if place not in ("", folder)]  # as for workers: no module of the project's for a library's
    gc.enable()
    os.chdir(FOLDER)
    try:
        yield
    finally:
        with suppress(OSError):  # it may be gone
            os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        random.setstate(numbers)
        (gc.enable if collecting else gc.disable)()
        if threads is not None:
            sys.modules["torch"].set_num_threads(threads)


def _threads() -> int | None:
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())
