"""The command `build`. Answers from the last plan's observations where nothing changed, and loads the rest only where something did."""

from __future__ import annotations

import os
import sys

from buildsys.terminal import printable

TYPE_CHECKING = False  # typing itself takes longer to load than an answer
if TYPE_CHECKING:
    from typing import TextIO


def main() -> None:
    """Entry point of the `build` script. Leaves out the interpreter's own end, which stumbles over workers that were killed."""
    _open_streams()
    try:
        code = _main()
    except KeyboardInterrupt:  # before, or after, there was anything to interrupt
        say("error: interrupted")
        code = 130
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
    os._exit(code)


def say(*lines: str) -> None:
    """Lines on stderr, as a terminal may show them. Who has closed it does not want them: that fails no build."""
    try:
        for line in lines:
            print(printable(line), file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Let what is written to a stream go nowhere, what is left in its buffer too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_streams() -> None:
    """Streams that take every text: the null device for one that is closed, or the next file would take its number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: its own
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))
        elif name != "stdin":
            getattr(sys, name).reconfigure(errors="backslashreplace")  # where it is ASCII, an arrow is shown as its code


def _main() -> int:
    from buildsys.store import fresh

    seen: dict[str, bytes] = {}
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        say("error: the current folder is gone", "hint: change to one that exists")
        return 2
    message = fresh.answer(sys.argv[1:], folder, seen)
    if message is not None:
        say(message)
        return 0
    from buildsys.cli.run import run

    return run(sys.argv[1:], seen)
