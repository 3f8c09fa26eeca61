"""The folder of the user's own settings, outside every project. Owns how its files are read and written, not what is in them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from buildsys import marks
from buildsys.errors import BuildError, os_failure

BYTES_MAX = 64 << 20  # of one file: a record of what many projects may run is far below
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def folder() -> Path:
    """`buildsys/` in XDG_CONFIG_HOME, else in ~/.config; it need not exist.

    A relative XDG_CONFIG_HOME counts as unset, as its specification says: it would lie in the project.
    """
    return Path(marks.settings_folder())


def read(name: str) -> bytes | None:
    """The bytes of a file of the folder, None where there is none.

    Raises BuildError for what somebody else could have written: a link, a file or a folder of another user or writable by others; and
    for what cannot be read.
    """
    path = folder() / name
    try:
        with _opened(path.parent) as parent, open(_file(path, parent), "rb") as file:
            _private(path, os.fstat(file.fileno()))
            data = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failure(error, path, "read") from error
    if len(data) > BYTES_MAX:
        raise BuildError(f"{path} is larger than {BYTES_MAX >> 20} MiB", hint="move it away")
    return data


def write(name: str, data: bytes) -> None:
    """Replace a file of the folder in one step: for this user alone, on the disk before its old content is gone.

    Raises BuildError where the folder is a link or somebody else's, and where it cannot be written.
    """
    path = folder() / name
    temporary = f".{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path.parent, 0o700)
        with _opened(path.parent, mend=True) as parent:
            with contextlib.suppress(FileNotFoundError):  # left by a process of the same number that was killed
                os.unlink(temporary, dir_fd=parent)
            try:
                with open(os.open(temporary, flags, 0o600, dir_fd=parent), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)  # a link of that name is replaced, not followed
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise
            os.fsync(parent)
    except OSError as error:
        raise _failure(error, path, "written") from error


@contextlib.contextmanager
def _opened(path: Path, *, mend: bool = False) -> Iterator[int]:
    """A descriptor of the folder, so that what is checked is what is used. `mend`: other users lose what rights they had in it."""
    parent = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(parent)
        if mend and status.st_uid == os.geteuid() and status.st_mode & 0o077:
            os.fchmod(parent, 0o700)
            status = os.fstat(parent)
        _private(path, status)
        yield parent
    finally:
        os.close(parent)


def _file(path: Path, parent: int) -> int:
    """A descriptor of a regular file: neither a link is followed nor a pipe waited for."""
    file = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise BuildError(f"{path} is not a regular file", hint="move it away")
    return file


def _private(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise BuildError(f"{path} belongs to another user", [("owner", str(status.st_uid)), ("you", str(os.geteuid()))], "move it away")
    if status.st_mode & _OTHERS:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        raise BuildError(f"{path} can be written by other users", [("mode", mode)], f"look at what is in it, then: chmod go-w {path}")


def _failure(error: OSError, path: Path, doing: str) -> BuildError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR) and path.parent.is_symlink():
        return BuildError(f"{path.parent} is a link", hint="settings are kept in a folder itself: move it there")
    if error.errno == errno.ELOOP:
        return BuildError(f"{path} is a link", hint="settings are kept in a file itself: move it there")
    return os_failure(error, f"{path} could not be {doing}")
