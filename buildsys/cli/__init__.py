"""The command `build`. Answers from the last plan's observations where nothing changed, and loads the rest only where something did."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the `build` script."""
    try:
        code = _main()
        if code == 130:  # everything that ran was killed: what the interpreter does at its end would only stumble over it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)
    except KeyboardInterrupt:  # before, or after, there was anything to interrupt
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


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
