"""Files of the user's, opened only where they are regular ones: a named pipe would wait for ever, a device may do anything."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from buildsys.errors import UsageError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check(path: Path | str) -> int:
    """The size of a regular file, links followed. Opens nothing.

    Raises UsageError for anything else that stands there, a link to nothing included; OSError where nothing does.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            facts = [("link", str(path)), ("destination", os.readlink(path))]
            raise UsageError(f"{Path(path).name} is a link to a file that does not exist", facts) from None
        raise
    except ValueError as error:  # a NUL in its name
        raise UsageError(f"{os.fspath(path)!r} is not a path", [("reason", str(error))]) from error
    _check_mode(path, status.st_mode)
    return status.st_size


def read(path: Path | str, bytes_max: int) -> bytes:
    """All bytes of a regular file. Raises as `check` does, and UsageError for a file of more than `bytes_max` bytes."""
    check(path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # it may have become a pipe since: opening never waits
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        _check_mode(path, status.st_mode)
        if status.st_size > bytes_max:
            facts = [("file", str(path)), ("has", f"{status.st_size:,} bytes"), ("limit", f"{bytes_max:,} bytes")]
            raise UsageError(f"{Path(path).name} is too large", facts)
        return file.read(status.st_size)  # what is written to it meanwhile changes its signature, and it is read again


def _check_mode(path: Path | str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise UsageError(f"{Path(path).name} is {kind}, not a file", [("path", str(path))])
