"""What a running build says on stderr: one live line a running step on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from buildsys.cli import say
from buildsys.errors import BuildError
from buildsys.graph import Step

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

        self._console = Console(stderr=True, highlight=False)
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
        self._tasks[step.name] = self._progress.add_task(step.name, total=None, text=step.rule)

    def progress(self, step: Step, text: str, share: float | None) -> None:
        self._progress.update(self._tasks[step.name], text=text, total=1.0 if share is not None else None, completed=share or 0.0)

    def noted(self, step: Step, text: str) -> None:
        self._console.print(f"  {step.name}: {text}", markup=False)

    def ended(self, step: Step, seconds: float) -> None:
        self._end(step, f"[green]✓[/] {step.name} [dim]{seconds:.1f} s[/]")

    def failed(self, step: Step, error: BuildError) -> None:
        self._end(step, f"[red]✗[/] {step.name}")

    def _end(self, step: Step, line: str) -> None:
        task = self._tasks.pop(step.name, None)
        if task is not None:
            self._progress.remove_task(task)
        self._console.print(line)


def watcher(quiet: bool) -> Lines | Live:
    return Live() if sys.stderr.isatty() and not quiet else Lines(quiet)
