"""Marks: keyed hashes that tell what this user's builds wrote into a cache from what came from elsewhere.

Owns where the secret of a cache is looked for and what a mark covers. Imported by the shortcut for nothing to do, so it loads nothing.
"""

from __future__ import annotations

import os
import stat
from _blake2 import blake2b  # what hashlib gives, without loading OpenSSL for it

SECRET = "secret"  # file of the user's configuration: the secret of every cache that is bound to no other
SECRET_BYTES_MIN = 32
_SECRET_BYTES_MAX = 4096
_HEAD, _TAIL = b',"mark":"', b'"}'
_HEX = 32  # digits of a mark
_LENGTH = len(_HEAD) + _HEX + len(_TAIL)


class SecretError(Exception):
    """A secret that cannot be used: `reason` says why, `hint` what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


class Marks:
    """Makes and checks the marks of one secret. Without a secret nothing carries a valid mark, and nothing can be marked."""

    def __init__(self, secret: bytes | None) -> None:
        self._key = None if secret is None else blake2b(secret, digest_size=64, person=b"buildsys").digest()

    @property
    def usable(self) -> bool:
        return self._key is not None

    def of(self, kind: str, name: str, data: bytes) -> str:
        """The mark of some bytes, as 32 hexadecimal digits.

        kind, name  what the bytes are: a mark for one place is worth nothing at another
        """
        assert self._key is not None
        hasher = blake2b(f"{kind}\0{name}\0".encode("utf-8", "surrogateescape"), key=self._key, digest_size=_HEX // 2)
        hasher.update(data)
        return hasher.hexdigest()

    def sealed(self, kind: str, name: str, data: bytes) -> bytes:
        """The text of a JSON object with its mark as the last member."""
        return b'%s,"mark":"%s"}' % (data[:-1], self.of(kind, name, data).encode())

    def content(self, kind: str, name: str, data: bytes) -> bytes | None:
        """What `sealed` was given; None where the mark is missing or is not that of these bytes."""
        text = without_mark(data)
        if text is None or self._key is None:
            return None
        mark = data[-_HEX - len(_TAIL) : -len(_TAIL)]
        return text if mark == self.of(kind, name, text).encode() else None


def without_mark(data: bytes) -> bytes | None:
    """The text of an object before it was marked; None for one that has no mark as its last member. Believes nothing."""
    if len(data) < _LENGTH or data[-_LENGTH : -_LENGTH + len(_HEAD)] != _HEAD or data[-len(_TAIL) :] != _TAIL:
        return None
    return data[:-_LENGTH] + b"}"


def of_cache(cache: str) -> Marks:
    """The marks of a cache: by the secret that it is bound to, else by the user's own.

    Raises SecretError where that secret is there and cannot be used.
    """
    _check_folder(settings_folder())
    bound = _text(os.path.join(settings_folder(), binding(cache)), shared=False)
    if bound is None:
        return Marks(_text(os.path.join(settings_folder(), SECRET), shared=False))
    how, _, where = bound.decode("utf-8", "surrogateescape").partition("\n")[0].partition(" ")
    if how == "environment":
        value = os.environ.get(where, "").strip().encode("utf-8", "surrogateescape")
        if not value:
            raise SecretError(f"the cache is bound to the secret in ${where}, which is not set", f"set {where}")
        return Marks(checked(value, f"${where}"))
    secret = _text(where, shared=True)
    if secret is None:
        raise SecretError(f"the cache is bound to the secret in {where}, which does not exist", "build cache trust --secret FILE")
    return Marks(checked(secret, where))


def checked(secret: bytes, name: str) -> bytes:
    """The secret, if it is long enough not to be guessed."""
    if len(secret) < SECRET_BYTES_MIN:
        raise SecretError(f"the secret in {name} is shorter than {SECRET_BYTES_MIN} characters", "openssl rand -hex 32 makes one")
    return secret


def read_shared(path: str) -> bytes:
    """A secret that a group shares. Raises SecretError where there is none that can be used."""
    secret = _text(path, shared=True)
    if secret is None:
        raise SecretError(f"file not found: {path}", "openssl rand -hex 32 makes a secret")
    return checked(secret, path)


def binding(cache: str) -> str:
    """The name of the user's setting that binds a cache to a secret: it belongs to the folder, not to what lies in it."""
    return f"cache-{blake2b(os.fsencode(os.path.realpath(cache)), digest_size=16).hexdigest()}"


def settings_folder() -> str:
    """`buildsys/` in XDG_CONFIG_HOME, else in ~/.config. A relative XDG_CONFIG_HOME counts as unset: it would lie in the project."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return os.path.join(home if os.path.isabs(home) else os.path.expanduser("~/.config"), "buildsys")


def _check_folder(path: str) -> None:
    """Raises SecretError where somebody else could have put a secret of theirs in place of the user's."""
    try:
        status = os.stat(path)
    except OSError:
        return
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o022:
        raise SecretError(f"{path} can be written by other users", f"look at what is in it, then: chmod go-w {path}")


def _text(path: str, *, shared: bool) -> bytes | None:
    """A small file that nobody else can write, and nobody else can read unless a group shares it; None where there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if shared else os.O_NOFOLLOW))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SecretError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}", "check its owner and its mode") from error
    try:
        status = os.fstat(handle)
        data = os.read(handle, _SECRET_BYTES_MAX + 1) if stat.S_ISREG(status.st_mode) else b""
    finally:
        os.close(handle)
    if not stat.S_ISREG(status.st_mode) or not 0 < len(data) <= _SECRET_BYTES_MAX:
        raise SecretError(f"{path} is not a file of 1 to {_SECRET_BYTES_MAX} bytes", "move it away")
    if not shared and status.st_uid not in (os.geteuid(), 0):
        raise SecretError(f"{path} belongs to another user", "move it away")
    forbidden = 0o007 if shared else 0o077
    if status.st_mode & forbidden:
        who = "everybody" if status.st_mode & 0o007 else "other users"
        raise SecretError(f"{path} is open to {who}", f"chmod {'o-rwx' if shared else 'go-rwx'} {path}")
    return data.strip()
