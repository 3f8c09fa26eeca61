"""Compiled loops, kept between processes in a folder of the user's own, and believed only when every byte is as it was written.

numba keeps them beside the package, as pickles that it opens unchecked: a damaged one ends a merge, or changes it, and whoever can write
there can run code. Here a file holds the digest of its name and content; one that does not match is dropped, and the loop compiled again.

numba also takes settings from a `.numba_config.yaml` in the current folder, when it is loaded and at each compilation: files to write,
modules to import. A project is data, so whatever needs numba gets it from here, where that file is not looked for.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import secrets
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

with contextlib.chdir("/"):  # the name of its file of settings is a constant until it is loaded
    import numba
    from numba import carray, types  # type: ignore[attr-defined]
    from numba.core import cgutils, config
    from numba.core.caching import CompileResultCacheImpl, FunctionCache
    from numba.core.serialize import dumps
    from numba.extending import intrinsic

import llvmlite
import numpy
from blake3 import blake3

__all__ = ["carray", "cgutils", "compiled", "intrinsic", "types"]

if not hasattr(config, "_config_fname"):
    raise ImportError("numba has another way to find its settings", name="numba")
vars(config)["_config_fname"] = ""  # which exists nowhere

BYTES_MAX = 64 << 20  # of one compiled loop; they are some hundred KB
_SEAL = 32  # bytes of a digest


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compiled at its first call, without the GIL, and kept for the next process where a folder for that can be trusted."""
    found = numba.njit(nogil=True, error_model="numpy", **options)(function)
    folder = _folder()
    if folder is not None:
        found._cache = _Kept(function, folder, f"{function.__module__}.{function.__qualname__} {sorted(options.items())}")
    return found  # type: ignore[no-any-return]


@functools.cache
def _folder() -> str | None:
    """`buildsys/numba/VERSION` in XDG_CACHE_HOME, else in ~/.cache; None where another user could write into it, or nobody can."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    place = configured if os.path.isabs(configured) else os.path.expanduser("~/.cache")
    if not os.path.isabs(place):  # there is no home
        return None
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        for part in ("buildsys", "numba", _version()):
            place = os.path.join(place, part)
            with contextlib.suppress(FileExistsError):
                os.mkdir(place, 0o700)
            status = os.lstat(place)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return None
    except OSError:
        return None
    return place


def _version() -> str:
    """Of everything that decides what a loop is compiled to, but its own types and the processor, which its name has."""
    hasher = blake3(repr((numba.__version__, llvmlite.__version__, numpy.__version__, sys.version)).encode())
    package = Path(__file__).parents[1]
    for source in sorted(path for folder in ("merging", "tensors", "training") for path in (package / folder).glob("*.py")):
        hasher.update(source.read_bytes())
    return hasher.hexdigest()[:16]


class _Locator:
    """What numba asks of whoever knows where a function's code is kept."""

    _py_file = __file__  # named in its warnings

    @classmethod
    def from_function(cls, function: Any, file: str) -> _Locator:
        return cls()

    def get_cache_path(self) -> str:
        return _folder() or ""

    def get_source_stamp(self) -> str:
        return ""

    def get_disambiguator(self) -> str:
        return ""

    def ensure_cache_path(self) -> None:
        pass


class _Results(CompileResultCacheImpl):
    _locator_classes: Any = [_Locator]


class _Kept(FunctionCache):
    """numba's cache of one function, with files of our own. Nothing that is wrong with it fails whoever calls the function."""

    _impl_class = _Results

    def __init__(self, function: Callable[..., Any], folder: str, name: str) -> None:
        super().__init__(function)
        vars(self)["_cache_file"] = _Files(folder, name)  # in place of its index and data files

    def load_overload(self, signature: Any, target: Any) -> Any:
        with contextlib.suppress(Exception):  # of another version, or damaged in a way that its seal does not show
            return super().load_overload(signature, target)
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk, a folder that is gone: it is compiled again next time
            super().save_overload(signature, result)


class _Files:
    """A file for each set of types and each processor that a function, as it is named with its options, was compiled for."""

    def __init__(self, folder: str, function: str) -> None:
        self._folder, self._function = folder, function

    def load(self, key: Any) -> Any:
        """What was saved; None where nothing was, or what is there is not what was written."""
        name = self._name(key)
        try:
            file = os.open(os.path.join(self._folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with open(file, "rb") as opened:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size > BYTES_MAX:
                return None
            seal, data = opened.read(_SEAL), opened.read()
        return pickle.loads(data) if seal == _seal(name, data) else None

    def save(self, key: Any, payload: Any) -> None:
        name = self._name(key)
        data = dumps(payload)
        part = os.path.join(self._folder, f".{name}.{secrets.token_hex(4)}")
        path = os.path.join(self._folder, name)
        try:
            file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(file, "wb") as opened:
                opened.write(_seal(name, data) + data)
            if os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise

    def flush(self) -> None:
        pass

    def _name(self, key: Any) -> str:
        return blake3(f"{self._function}\0{key!r}".encode()).hexdigest()


def _seal(name: str, data: bytes) -> bytes:
    return blake3(name.encode() + b"\0" + data).digest()
