"""Files and folders inside cache/: opened without following a link, written whole, flushed. Every write there is one of these.

Owns how the cache touches the disk, not what it keeps there. `disk` is the seam at which tests let the disk fail.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from buildsys.errors import BuildError

_PLAIN = re.compile(r"[^\s./\\\x00-\x1f\x7f-\x9f\ud800-\udfff][^/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
RECORD_BYTES_MAX = 64 << 20  # of one record or measurement: the largest lists the numbers of 100,000 rows
_CHUNK_BYTES = 1 << 20
_WINDOW_BYTES = 1 << 28  # of a large file, mapped at a time: a whole one would fill the memory with what was read
_SMALL_BYTES = 1 << 18  # a file that is read faster than it is mapped


class Disk:
    """What can fail when a file is written or read: a subclass in a test fails on purpose."""

    def write(self, handle: int, data: bytes | memoryview) -> int:
        return os.write(handle, data)

    def read(self, handle: int, count: int) -> bytes:
        return os.read(handle, count)

    def fsync(self, handle: int) -> None:
        os.fsync(handle)

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def link(self, source: str, target: str) -> None:
        os.link(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def copy(self, source: str, target: str) -> None:
        shutil.copyfile(source, target)

    def exchange(self, one: str, other: str) -> None:
        """Each name stands for what the other stood for, in one step. Raises OSError where the system or the file system cannot."""
        library = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(one), os.fsencode(other)
        if sys.platform == "linux":
            at_current_folder, exchange = -100, 2
            failed = library.renameat2(at_current_folder, names[0], at_current_folder, names[1], exchange)
        elif sys.platform == "darwin":
            swap = 2
            failed = library.renamex_np(*names, swap)
        else:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if failed:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), other)


disk = Disk()


def is_plain_name(name: object) -> bool:
    """True for the name of one file in a folder: no path, not hidden, no control characters, at most 255 bytes."""
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None and len(name.encode()) <= 255


def is_digest(text: object) -> bool:
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def linked(path: Path | str) -> BuildError:
    """The error for a link where the store expects what it made itself."""
    try:
        target = os.readlink(path)
    except OSError:
        target = "?"
    return BuildError(
        f"{path} is a link",
        [("leads to", target)],
        "nothing in cache/ is read or written through a link: remove it (cache itself may be a link)",
    )


def check_folder(path: Path | str) -> None:
    """Raises BuildError where something else than a folder stands, FileNotFoundError where nothing does."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        raise linked(path)
    if not stat.S_ISDIR(mode):
        raise BuildError(f"{path} is not a folder", hint="move it away: the store keeps a folder there")


def make_folder(path: Path | str) -> None:
    """The folder, and those above it that are missing. Raises BuildError where a link or a file stands at its place."""
    try:
        os.mkdir(path)
    except FileExistsError:
        check_folder(path)
    except FileNotFoundError:
        make_folder(os.path.dirname(path))
        make_folder(path)


def entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """What is in a folder; nothing where there is none. Raises BuildError for a link or a file at its place."""
    try:
        check_folder(folder)
        with os.scandir(folder) as found:
            yield from found
    except FileNotFoundError:
        return


def opened(path: Path | str, flags: int, *, follow: bool = False) -> int:
    """A descriptor of a regular file. Raises BuildError for a link unless it is to be followed, OSError for a pipe, a device or a folder;
    waits for none of them.
    """
    try:
        handle = os.open(path, flags | (0 if follow else os.O_NOFOLLOW) | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.islink(path):
            raise linked(path) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return handle


def read(path: Path | str, bytes_max: int = RECORD_BYTES_MAX) -> bytes:
    """All bytes of a file. Raises OSError where there is none, or more than `bytes_max`; BuildError for a link."""
    handle = opened(path, os.O_RDONLY)
    try:
        if os.fstat(handle).st_size > bytes_max:
            raise OSError(errno.EFBIG, f"larger than {bytes_max:,} bytes", os.fspath(path))
        parts = []
        while part := disk.read(handle, _CHUNK_BYTES):
            parts.append(part)
    finally:
        os.close(handle)
    return b"".join(parts)


def digest(path: Path | str, *, follow: bool = True) -> str:
    """BLAKE3 of a file, on all cores once it is large. Reads no more than its size; raises OSError for a file of no size that goes on.

    Without `follow` a link is refused, as `opened` does it.
    """
    handle = opened(path, os.O_RDONLY, follow=follow)
    try:
        size = os.fstat(handle).st_size
        hasher = blake3(max_threads=blake3.AUTO if size > 1 << 22 else 1)
        if size > _SMALL_BYTES:
            for start in range(0, size, _WINDOW_BYTES):
                with mmap.mmap(handle, min(_WINDOW_BYTES, size - start), access=mmap.ACCESS_READ, offset=start) as data:
                    hasher.update(data)
        else:
            rest = size
            while rest and (part := os.read(handle, rest)):
                hasher.update(part)
                rest -= len(part)
            if not size and os.read(handle, 4096) and not os.fstat(handle).st_size:
                raise OSError(errno.EINVAL, "not a file on a disk", os.fspath(path))
        return hasher.hexdigest()
    except ValueError as error:  # of mmap
        raise OSError(errno.EIO, "cut short while it was read", os.fspath(path)) from error
    finally:
        os.close(handle)


def append(path: Path | str, line: bytes) -> None:
    """One line at the end of a file, in one write: two builds at once cannot mix theirs. What a crash cut off stays a line of its own."""
    handle = opened(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    if os.fstat(handle).st_nlink > 1:  # another name for it may lie anywhere: the line goes into a copy that has none
        os.close(handle)
        write_whole(path, read(path, 1 << 40), flush=False)
        handle = opened(path, os.O_RDWR | os.O_APPEND)
    try:
        end = os.fstat(handle).st_size
        cut_off = end > 0 and os.pread(handle, 1, end - 1) != b"\n"
        _write(handle, b"\n" * cut_off + line + b"\n")
    finally:
        os.close(handle)


def write_whole(path: Path | str, data: bytes, *, flush: bool) -> None:
    """All of it or nothing, under a temporary name in the same folder first; the name itself may be anything but a folder before."""
    folder, name = os.path.split(os.fspath(path))
    part = os.path.join(folder, f".{name}.{secrets.token_hex(4)}")
    try:
        handle = opened(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            _write(handle, data)
            if flush:
                disk.fsync(handle)
        finally:
            os.close(handle)
        disk.rename(part, os.fspath(path))
        if flush:
            flush_folder(folder)
    except BaseException:
        unlink_if_there(part)
        raise


def _write(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # a signal or a full disk may cut a write short: the next one says which
        rest = rest[disk.write(handle, rest) :]


def flush_file(path: Path | str) -> None:
    """Wait until the bytes of a file are on the disk."""
    handle = opened(path, os.O_RDONLY)
    try:
        disk.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(path: Path | str) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        disk.fsync(handle)
    finally:
        os.close(handle)


def move(source: Path | str, target: Path | str) -> None:
    """Rename; onto another disk by a copy under a hidden name, which is renamed once it is whole."""
    source, target = os.fspath(source), os.fspath(target)
    try:
        disk.rename(source, target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    folder, name = os.path.split(target)
    part = os.path.join(folder, f".{name}.{secrets.token_hex(4)}")
    try:
        disk.copy(source, part)
        shutil.copystat(source, part)
        flush_file(part)  # its original goes away
        disk.rename(part, target)
    except BaseException:
        unlink_if_there(part)
        raise
    disk.unlink(source)


def unlink_if_there(path: Path | str) -> None:
    try:
        disk.unlink(os.fspath(path))
    except FileNotFoundError:
        pass
