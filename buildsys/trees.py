"""Folders inside cache/ with all that is in them: walked, looked at and taken away, however deep, and without following a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def below(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Everything inside a folder, however deep; a folder before what is in it, and no link followed."""
    waiting = [os.fspath(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for entry in found:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def is_plain_tree(folder: Path | str) -> bool:
    """True for a folder of nothing but folders and files: whoever opens what is in it leaves it by no link, and waits for no pipe.

    A file may have a second name, as a backup of hard links gives it: what is written there is written as a new file.
    """
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        return False
    modes = (entry.stat(follow_symlinks=False).st_mode for entry in below(folder))
    return all(stat.S_ISDIR(mode) or stat.S_ISREG(mode) for mode in modes)


def remove(path: Path | str) -> None:
    """Take away whatever stands there, with all that is in it, as far as it can be; follows no link. What is left is swept another time."""
    folders = []
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            folders.append(os.fspath(path))
            for entry in below(path):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    with suppress(OSError):
                        os.unlink(entry.path)
        else:
            os.unlink(path)
    except OSError:
        pass
    for folder in reversed(folders):
        with suppress(OSError):
            os.rmdir(folder)
