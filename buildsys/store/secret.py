"""The secret behind a cache's marks: made once for each user, or shared by a group and bound to one cache."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from filelock import FileLock

from buildsys import configuration, marks
from buildsys.errors import BuildError


def of(cache: Path) -> marks.Marks:
    """The marks of a cache. Raises BuildError for a secret that cannot be used."""
    try:
        return marks.of_cache(os.fspath(cache))
    except marks.SecretError as error:
        raise _unusable(error) from error


def ensured(cache: Path) -> marks.Marks:
    """The same; the user's own secret is made where there is none yet. Raises BuildError where it cannot be written."""
    known = of(cache)
    if known.usable:
        return known
    configuration.write(f"{marks.SECRET}.lock", b"")
    with FileLock(configuration.folder() / f"{marks.SECRET}.lock"):  # two first builds at once make one secret
        known = of(cache)
        if not known.usable:
            configuration.write(marks.SECRET, secrets.token_hex(32).encode() + b"\n")
            known = of(cache)
    return known


def bind(cache: Path, *, file: Path | None = None, environment: str | None = None) -> None:
    """Mark and check this cache with a secret that others have too, from now on and for this user.

    Raises BuildError where the secret cannot be used.
    """
    try:
        if file is not None:
            marks.read_shared(os.fspath(file))
        else:
            marks.checked(os.environ.get(environment or "", "").strip().encode(), f"${environment}")
    except marks.SecretError as error:
        raise _unusable(error) from error
    where = f"file {file}" if file is not None else f"environment {environment}"
    configuration.write(marks.binding(os.fspath(cache)), f"{where}\nfor {os.path.realpath(cache)}\n".encode("utf-8", "surrogateescape"))


def _unusable(error: marks.SecretError) -> BuildError:
    return BuildError(error.reason, hint=error.hint)
