"""Checkpoints of a run: sealed when they are whole, found again when it goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from buildsys import files, strict, trees
from buildsys.marks import Marks, without_mark

_COMPLETE = "complete"  # written last into a checkpoint: one without it was cut off
_KIND = "checkpoint"  # of a mark
_LIST_BYTES_MAX = 1 << 20


def seal(checkpoint: Path, marks: Marks) -> None:
    """Bring a checkpoint to the disk, then list the digests of its files, marked: one without the list, or unlike it, is not used."""
    digests = {}
    for file in sorted(path for path in checkpoint.iterdir() if path.name != _COMPLETE):
        files.flush_file(file)
        digests[file.name] = files.digest(file, follow=False)
    text = json.dumps({"files": digests}).encode()
    files.write_whole(checkpoint / _COMPLETE, marks.sealed(_KIND, _name(checkpoint), text), flush=True)


def last_checkpoint(folder: Path, marks: Marks) -> Path | None:
    """The newest checkpoint that is whole, and that a run of the same action under the same secret wrote."""
    newest_first = sorted(checkpoints(folder), key=lambda path: -int(path.name.partition("-")[2]))
    return next((checkpoint for checkpoint in newest_first if _sealed(checkpoint, marks)), None)


def resumed_from(folder: Path, update: int) -> Path | None:
    """The checkpoint that a run which begins at this update was resumed from; None for a run from the start."""
    return folder / f"checkpoint-{update}" if update else None


def remove_cut_off(folder: Path, marks: Marks) -> None:
    """Take away what a killed run left half-written, and what somebody else put there."""
    for checkpoint in checkpoints(folder):
        if not _sealed(checkpoint, marks):
            trees.remove(checkpoint)


def foreign(folder: Path, marks: Marks) -> list[Path]:
    """Checkpoints that are whole as it seems, but under another secret, or none: not resumed from, and not to be lost unseen.

    Raises BuildError for a link.
    """
    complete = [path for path in checkpoints(folder) if os.path.lexists(path / _COMPLETE)]
    return [path for path in complete if _listed(path, marks) is None]


def is_whole(checkpoint: Path, marks: Marks) -> bool:
    """True where the files of a checkpoint are those that it lists under a valid mark."""
    return _sealed(checkpoint, marks)


def adopt(checkpoint: Path, marks: Marks) -> None:
    """Seal a checkpoint that somebody else completed. Raises ValueError where its files are not those of its list."""
    data = files.read(checkpoint / _COMPLETE, _LIST_BYTES_MAX)
    try:
        listed = strict.json_value(without_mark(data) or data, _LIST_BYTES_MAX)
    except strict.Malformed as error:
        raise ValueError(f"its list {error}") from error
    digests = listed.get("files", listed) if isinstance(listed, dict) else None  # without a mark, the list was the whole file
    names = set(os.listdir(checkpoint)) - {_COMPLETE}
    if not isinstance(digests, dict) or not digests or not all(map(files.is_digest, digests.values())) or set(digests) != names:
        raise ValueError("its files are not those that it lists")
    if any(files.digest(checkpoint / name, follow=False) != digests[name] for name in names):
        raise ValueError("its files are not those that it lists")
    seal(checkpoint, marks)


def checkpoints(folder: Path) -> list[Path]:
    """All of a run, whole or not. Raises BuildError for a link."""
    found = []
    for entry in files.entries(folder):
        name, _, update = entry.name.partition("-")
        if name == "checkpoint" and update.isdecimal():
            files.check_folder(entry.path)
            found.append(Path(entry.path))
    return found


def _listed(checkpoint: Path, marks: Marks) -> dict[str, str] | None:
    """The digests of a checkpoint's files; None without a list under a valid mark."""
    try:
        content = marks.content(_KIND, _name(checkpoint), files.read(checkpoint / _COMPLETE, _LIST_BYTES_MAX))
    except OSError:
        return None
    digests: dict[str, str] | None = None if content is None else json.loads(content)["files"]
    return digests


def _sealed(checkpoint: Path, marks: Marks) -> bool:
    digests = _listed(checkpoint, marks)
    try:
        if digests is None or set(os.listdir(checkpoint)) - {_COMPLETE} != set(digests):
            return False
        return all(files.digest(checkpoint / name, follow=False) == digest for name, digest in digests.items())
    except OSError:
        return False


def _name(checkpoint: Path) -> str:
    """A checkpoint is one of its action: the folder that it stands in is named for the key."""
    return f"{checkpoint.parent.name}/{checkpoint.name}"
