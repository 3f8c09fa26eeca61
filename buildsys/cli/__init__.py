"""The command `build`. Answers from the last plan's observations where nothing changed, and loads the rest only where something did."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the `build` script."""
    from buildsys.store import fresh

    seen: dict[str, bytes] = {}
    message = fresh.answer(sys.argv[1:], os.getcwd(), seen)
    if message is not None:
        print(message, file=sys.stderr)
        return
    from buildsys.cli.commands import run

    sys.exit(run(sys.argv[1:], seen))
