"""Errors that nobody foresaw: their tracebacks go into a log of the cache, and the error that people see names it."""

from __future__ import annotations

import os
import time
import traceback
from contextlib import suppress
from pathlib import Path

from buildsys.errors import BuildError

HINT = "run again with --debug for the traceback"


def chain(error: BaseException) -> list[str]:
    """The lines of a traceback with everything that led to the error."""
    return "".join(traceback.format_exception(error)).splitlines()


def unexpected(error: BaseException, headline: str = "an internal error", hint: str = HINT) -> BuildError:
    """What people see of an error that nobody foresaw, which is the cause of what is returned."""
    reason = str(error).strip().splitlines()
    failure = BuildError(headline, [(type(error).__name__, reason[0] if reason else "")], hint)
    failure.__cause__ = error
    return failure


def logged(error: BaseException, logs: Path, name: str | None = None) -> Path | None:
    """Add a traceback to a log, and return its path; None where it cannot be written.

    logs  the folder of a cache that a build has made: no folder is made here, and no link followed out of it
    name  of the log; one for this moment without it
    """
    name = name or f"internal-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with suppress(OSError):
        folder = os.open(logs, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            log = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644, dir_fd=folder)
        finally:
            os.close(folder)
        with os.fdopen(log, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join([*chain(error), ""]))
        return logs / name
    return None
