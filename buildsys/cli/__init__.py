"""The command `build`. Answers from the last plan's observations where nothing changed, and loads the rest only where something did."""

from __future__ import annotations

import contextlib
import os
import sys


def main() -> None:
    """Entry point of the `build` script. Leaves out the interpreter's own end, which stumbles over workers that were killed."""
    try:
        code = _main()
    except KeyboardInterrupt:  # before, or after, there was anything to interrupt
        print("error: interrupted", file=sys.stderr)
        code = 130
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _main() -> int:
    from buildsys.store import fresh

    seen: dict[str, bytes] = {}
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        print("error: the current folder is gone\nhint: change to one that exists", file=sys.stderr)
        return 2
    message = fresh.answer(sys.argv[1:], folder, seen)
    if message is not None:
        print(message, file=sys.stderr)
        return 0
    from buildsys.cli.run import run

    return run(sys.argv[1:], seen)
