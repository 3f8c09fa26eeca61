"""The shortcut for nothing to do: replays with `stat` every observation that the last full plan made.

A plan is a function of what it observed, and it observes only through `store.observe`: equal observations, equal answer.
Owns that record. Imported first by every `build`, so it loads nothing that a bare interpreter has not loaded already.
"""

from __future__ import annotations

import os
import struct
import sys
from _blake2 import blake2b  # what hashlib gives, without loading OpenSSL for it

from buildsys import marks

_HEAD = "buildsys-fresh-2"
_NOTE_BYTES_MAX = 1 << 30
_PACK = struct.Struct("<qqqqqQ").pack
COMMANDS = frozenset(("status", "why", "list", "show", "sample"))


def signature(path: str) -> bytes:
    """What `stat` says of a path, links followed: equal signatures, same bytes. b"" where nothing is there."""
    try:
        s = os.stat(path)
    except OSError:
        return b""
    return _PACK(s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev & 0xFFFFFFFFFFFFFFFF)


def answer(arguments: list[str], folder: str, seen: dict[str, bytes] | None = None) -> str | None:
    """What the full plan would say, if nothing that it looked at has changed; None where only it can tell.

    `seen` takes the signatures of a replay that did not match: the plan that follows at once need not ask again.
    """
    targets = []
    given = iter(arguments)
    for argument in given:
        if argument == "-C":
            folder = os.path.join(folder, next(given, "\0"))
        elif argument.startswith("-") or argument in COMMANDS:
            return None
        else:
            targets.append(argument)
    root = project_root(folder) if "\0" not in folder and os.path.isdir(folder) else None
    if root is None:
        return None
    note = _note(os.path.join(root, "cache"), targets)
    if note is None:
        return None
    digest, message, *paths = note
    before = os.getcwd()
    os.chdir(root)  # relative paths are shorter walks for the kernel
    try:
        found = [signature(path) for path in paths]
    finally:
        os.chdir(before)
    if _hashed(found) == digest:
        return message
    at = root + os.sep
    if seen is not None:
        seen.update(zip([path if path[:1] == os.sep else at + path for path in paths], found, strict=True))
    return None


def _note(cache: str, targets: list[str]) -> list[str] | None:
    """The hash of the signatures, the message and the paths of a note that this user's own build wrote; None where there is none."""
    path = record_path(cache, targets)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            data = file.read(_NOTE_BYTES_MAX)
        known = marks.of_cache(cache)
    except (OSError, marks.SecretError):
        return None
    mark, _, text = data.partition(b"\n")
    if not known.usable or mark.decode("ascii", "replace") != known.of("fresh", os.path.basename(path), text):
        return None
    head, *note = text.decode("utf-8", "surrogateescape").split("\n")
    return note if head == _HEAD else None


def remember(cache: str, targets: list[str], message: str, observed: dict[str, bytes], known: marks.Marks) -> None:
    """Record that the plan for these targets found nothing to do, having observed just this. Raises OSError where it cannot be written."""
    from buildsys import files  # which the shortcut itself does not need

    root = os.path.dirname(cache) + os.sep
    paths = [path.removeprefix(root) for path in observed]
    if any("\n" in path for path in paths):
        return
    digest = _hashed(observed.values())
    path = record_path(cache, targets)
    text = "\n".join([_HEAD, digest, message, *paths]).encode("utf-8", "surrogateescape")
    files.write_whole(path, known.of("fresh", os.path.basename(path), text).encode() + b"\n" + text, flush=False)


def forget(cache: str, targets: list[str]) -> None:
    """Drop the record: something is to be done."""
    try:
        os.unlink(record_path(cache, targets))
    except OSError:
        pass  # there is none, or the cache cannot be written


def record_path(cache: str, targets: list[str]) -> str:
    """Another interpreter, another copy of this program, another home or another boot may find something else to do."""
    context = [sys.version, __file__, os.path.expanduser("~"), this_boot()]
    name = blake2b("\0".join([*context, *targets]).encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return os.path.join(cache, "fresh", name)


def this_boot() -> str:
    """A name for the time since the machine started; "" where the system gives none, and then everything is flushed."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def project_root(folder: str) -> str | None:
    """The nearest folder at or above this one that holds a Buildfile.toml."""
    folder = os.path.abspath(folder)
    while not os.path.isfile(os.path.join(folder, "Buildfile.toml")):
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent
    return folder


def _hashed(signatures: object) -> str:
    return blake2b(b"/".join(signatures), digest_size=32).hexdigest()  # type: ignore[arg-type]
