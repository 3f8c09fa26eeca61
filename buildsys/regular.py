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


def check(path: Path | str, bytes_max: int | None = None) -> int:
    """The size of a regular file, links followed. Opens none but one that says it is empty.

    Raises UsageError for anything else that stands there, a link to nothing included, and for a file of more than `bytes_max` bytes;
    OSError where nothing stands.
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
    if bytes_max is not None and status.st_size > bytes_max:
        raise too_large(path, status.st_size, bytes_max)
    if not status.st_size and not status.st_blocks:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_empty(path, handle)
        finally:
            os.close(handle)
    return status.st_size


def too_large(path: Path | str, size: int, bytes_max: int) -> UsageError:
    facts = [("file", str(path)), ("has", f"{size:,} bytes"), ("limit", f"{bytes_max:,} bytes")]
    return UsageError(f"{Path(path).name} is too large", facts)


def read(path: Path | str, bytes_max: int) -> bytes:
    """All bytes of a regular file. Raises as `check` does, and UsageError for a file of more than `bytes_max` bytes."""
    check(path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # it may have become a pipe since: opening never waits
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        _check_mode(path, status.st_mode)
        if status.st_size > bytes_max:
            raise too_large(path, status.st_size, bytes_max)
        return file.read(status.st_size)  # what is written to it meanwhile changes its signature, and it is read again


def _check_empty(path: Path | str, handle: int) -> None:
    """What the system makes up as it is read has no size, and may have no end: the files of /proc."""
    if os.read(handle, 4096) and not os.fstat(handle).st_size:
        facts, hint = [("path", str(path))], "put a copy of what it says into a file"
        raise UsageError(f"{Path(path).name} is made up by the system, not a file on a disk", facts, hint)


def _check_mode(path: Path | str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise UsageError(f"{Path(path).name} is {kind}, not a file", [("path", str(path))])
