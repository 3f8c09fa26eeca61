"""Every error a user can meet: one line that names the thing, aligned facts, one hint. Owns their text, not their causes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from buildsys.terminal import printable


class BuildError(Exception):
    """A failure that is explained, never shown as a traceback.

    headline  one lower-case line that names the thing
    facts     rows of columns, aligned when shown
    hint      what exists, or what to do
    """

    exit_code = 1

    def __init__(self, headline: str, facts: Iterable[Sequence[str]] = (), hint: str = "") -> None:
        self.headline = headline
        self.facts = tuple(tuple(row) for row in facts)
        self.hint = hint
        super().__init__(headline)

    def __reduce__(self) -> tuple[object, ...]:  # crosses the border of a worker process whole
        return type(self), (self.headline, self.facts, self.hint)

    def lines(self) -> list[str]:
        """What people read, safe for a terminal: whatever stands in a name or a value is in its own line and cell."""
        lines = [printable(f"error: {self.headline}"), *aligned(self.facts)]
        if self.hint:
            lines.append(printable(f"hint: {self.hint}"))
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


class UsageError(BuildError):
    """The Buildfile, a file that it names, or the command line is wrong: nothing has run."""

    exit_code = 2


class Mismatch(BuildError):
    """Two models that do not fit together: their headers or tokenizers say so, before anything is read."""


class Interrupted(BuildError):
    """Ctrl-C: what was finished is kept, what was running goes on from its last checkpoint."""

    exit_code = 130


def aligned(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """The rows as lines that a terminal may show, every column but the last padded to its widest cell."""
    rows = [[printable(cell) for cell in row] for row in rows]
    columns = max((len(row) for row in rows), default=0)
    widths = [max((len(row[i]) for row in rows if len(row) > i + 1), default=0) for i in range(columns)]
    return [
        (indent + "  ".join(cell.ljust(widths[i]) if i + 1 < len(row) else cell for i, cell in enumerate(row))).rstrip() for row in rows
    ]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, or None."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def reason_of(error: BaseException) -> str:
    """The first line of what a library says of its failure; the kind of failure where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def os_failure(error: OSError, doing: str) -> BuildError:
    """What the operating system refused, in our words: a full disk, a read-only folder, a missing permission."""
    import errno

    reasons = {
        errno.ENOSPC: ("no space is left on the disk", "free some space; what was finished before is kept"),
        errno.EDQUOT: ("the disk quota is used up", "free some space; what was finished before is kept"),
        errno.EROFS: ("the file system is read-only", "point the project at a folder that can be written"),
        errno.EACCES: ("permission denied", "check the owner and the mode of the folder"),
        errno.EPERM: ("permission denied", "check the owner and the mode of the folder"),
    }
    reason, hint = reasons.get(error.errno or 0, (error.strerror or str(error), ""))
    facts = [("file", str(error.filename))] if error.filename else []
    return BuildError(f"{doing}: {reason}", facts, hint)
