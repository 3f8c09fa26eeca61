"""What a running build says on stderr: one live line a running step on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from buildsys.cli import say
from buildsys.errors import BuildError
from buildsys.graph import Step
from buildsys.terminal import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 10.0


class Lines:
    """For a pipe or a file: a line when a step starts, now and then while it runs, and when it ends."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def started(self, step: Step) -> None:
        self._said[step.name] = time.monotonic()
        self._say(f"{step.name}: {step.rule}")

    def progress(self, step: Step, text: str, share: float | None) -> None:
        now = time.monotonic()
        if now - self._said.get(step.name, now) >= _SECONDS_BETWEEN_LINES:
            self._said[step.name] = now
            self._say(f"{step.name}: {text}")

    def noted(self, step: Step, text: str) -> None:
        self._say(f"{step.name}: {text}")

    def ended(self, step: Step, seconds: float) -> None:
        self._say(f"{step.name}: done in {seconds:.1f} s")

    def failed(self, step: Step, error: BuildError) -> None:
        self._say(f"{step.name}: failed")

    def _say(self, line: str) -> None:
        if not self._quiet:
            with self._lock:
                say(line)


class Live:
    """For a terminal: running steps below, finished ones above them."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(file=sys.__stderr__, highlight=False)  # colors are ours
        columns = [TextColumn("{task.description}", markup=False), TextColumn("{task.fields[text]}", style="dim", markup=False)]
        if self._console.width >= 100:
            columns.insert(1, BarColumn(20))  # type: ignore[arg-type]
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, step: Step) -> None:
        self._tasks[step.name] = self._progress.add_task(printable(step.name), total=None, text=step.rule)

    def progress(self, step: Step, text: str, share: float | None) -> None:
        total = 1.0 if share is not None else None
        self._progress.update(self._tasks[step.name], text=printable(text), total=total, completed=share or 0.0)

    def noted(self, step: Step, text: str) -> None:
        self._print(printable(f"  {step.name}: {text}"))

    def ended(self, step: Step, seconds: float) -> None:
        self._end(step, ("✓", "green"), f" {printable(step.name)} ", (f"{seconds:.1f} s", "dim"))

    def failed(self, step: Step, error: BuildError) -> None:
        self._end(step, ("✗", "red"), f" {printable(step.name)}")

    def _end(self, step: Step, *line: str | tuple[str, str]) -> None:
        task = self._tasks.pop(step.name, None)
        if task is not None:
            self._progress.remove_task(task)
        self._print(*line)

    def _print(self, *line: str | tuple[str, str]) -> None:
        """Text, or (text, style), as it stands: a name that looks like rich's markup or an emoji's code is neither."""
        from rich.text import Text

        self._console.print(Text.assemble(*line))


def watcher(quiet: bool, plain: bool) -> Lines | Live:
    """plain  lines on a terminal too, which a debugger has for itself"""
    return Live() if sys.stderr.isatty() and not (quiet or plain) else Lines(quiet)
