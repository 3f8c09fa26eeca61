"""Checkpoints of a run: sealed when they are whole, found again when it goes on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from buildsys import files
from buildsys.marks import Marks, without_mark

_COMPLETE = "complete"  # written last into a checkpoint: one without it was cut off
_KIND = "checkpoint"  # of a mark


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
    checkpoints = sorted(_checkpoints(folder), key=lambda path: -int(path.name.partition("-")[2]))
    return next((checkpoint for checkpoint in checkpoints if _sealed(checkpoint, marks)), None)


def resumed_from(folder: Path, update: int) -> Path | None:
    """The checkpoint that a run which begins at this update was resumed from; None for a run from the start."""
    return folder / f"checkpoint-{update}" if update else None


def remove_cut_off(folder: Path, marks: Marks) -> None:
    """Take away what a killed run left half-written, and what somebody else put there."""
    for checkpoint in _checkpoints(folder):
        if not _sealed(checkpoint, marks):
            shutil.rmtree(checkpoint, ignore_errors=True)


def foreign(folder: Path, marks: Marks) -> list[Path]:
    """Checkpoints that are whole as it seems, but under another secret, or none: not resumed from, and not to be lost unseen."""
    whole = [path for path in _checkpoints(folder) if (path / _COMPLETE).is_file()]
    return [path for path in whole if marks.content(_KIND, _name(path), files.read(path / _COMPLETE)) is None]


def adopt(checkpoint: Path, marks: Marks) -> None:
    """Seal a checkpoint that somebody else completed. Raises ValueError where its files are not those of its list."""
    data = files.read(checkpoint / _COMPLETE)
    listed = json.loads(without_mark(data) or data)
    digests = listed.get("files", listed) if isinstance(listed, dict) else {}  # without a mark, the list was the whole file
    names = set(os.listdir(checkpoint)) - {_COMPLETE}
    if set(digests) != names or any(files.digest(checkpoint / name, follow=False) != digests[name] for name in names):
        raise ValueError("its files are not those that it lists")
    seal(checkpoint, marks)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal() and path.is_dir()]


def _sealed(checkpoint: Path, marks: Marks) -> bool:
    try:
        content = marks.content(_KIND, _name(checkpoint), files.read(checkpoint / _COMPLETE))
        digests = {} if content is None else json.loads(content)["files"]
        names = set(os.listdir(checkpoint)) - {_COMPLETE}
        return (
            content is not None
            and names == set(digests)
            and all(files.digest(checkpoint / name, follow=False) == digests[name] for name in names)
        )
    except OSError:
        return False


def _name(checkpoint: Path) -> str:
    """A checkpoint is one of its action: the folder that it stands in is named for the key."""
    return f"{checkpoint.parent.name}/{checkpoint.name}"
