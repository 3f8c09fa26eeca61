"""Checkpoints of a run: sealed when they are whole, found again when it goes on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from blake3 import blake3

_COMPLETE = "complete"  # written last into a checkpoint: one without it was cut off


def seal(checkpoint: Path) -> None:
    """Bring a checkpoint to the disk, then list the digests of its files: one without the list, or unlike it, was cut off."""
    digests = {}
    for file in sorted(checkpoint.iterdir()):
        with open(file, "rb") as data:
            os.fsync(data.fileno())
        digests[file.name] = blake3(file.read_bytes()).hexdigest()
    with open(checkpoint / _COMPLETE, "w") as listed:
        json.dump(digests, listed)
        listed.flush()
        os.fsync(listed.fileno())


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda place: -int(place.name.partition("-")[2]))
    return next((place for place in found if _sealed(place)), None)


def remove_cut_off(folder: Path) -> None:
    """Take away what a killed run left half-written."""
    for place in folder.glob("checkpoint-*"):
        if not _sealed(place):
            shutil.rmtree(place, ignore_errors=True)


def _sealed(checkpoint: Path) -> bool:
    try:
        digests = json.loads((checkpoint / _COMPLETE).read_text())
        return all(blake3((checkpoint / name).read_bytes()).hexdigest() == digest for name, digest in digests.items())
    except (OSError, ValueError):
        return False
