"""doit: it owns order, readiness, parallelism and the spread of failure between steps; whoever builds decides what is up to date.

doit asks for a task's status only after everything it needs has finished, so a status from the digests of real outputs is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from doit.action import BaseAction
from doit.control import TaskControl
from doit.dependency import Dependency, DependencyStatus
from doit.exceptions import TaskFailed
from doit.runner import MThreadRunner, Runner
from doit.task import Task

from buildsys.errors import BuildError


class Build(Protocol):
    """What doit asks of a build, from several threads."""

    def up_to_date(self, name: str) -> bool:
        """True where a step need not be made; everything it needs has finished."""

    def make(self, name: str) -> BuildError | None:
        """Make a step; what went wrong, or None."""

    def failed(self, name: str, error: Exception) -> BuildError:
        """Note what kept a step from being looked at, and return it in our words."""


def run(needs: Mapping[str, Sequence[str]], build: Build, *, jobs: int, keep_going: bool, one_thread: bool) -> None:
    """Make every step that is not up to date, each after those that it needs."""
    if not needs:
        return
    control = TaskControl([Task(name, [_Make(build, name)], task_dep=list(before)) for name, before in needs.items()])
    control.process(None)
    given: dict[str, Any] = {"continue_": keep_going}
    runner = Runner(_Store(build), _Quiet(), **given) if one_thread else MThreadRunner(_Store(build), _Quiet(), num_process=jobs, **given)
    runner.run_all(control.task_dispatcher())


class _Make(BaseAction):  # type: ignore[misc]  # doit has no types
    """A doit action: PythonAction would swap sys.stdout under our threads."""

    def __init__(self, build: Build, name: str) -> None:
        self._build, self._name = build, name
        self.task = None
        self.out = self.err = ""
        self.result: Any = None
        self.values: dict[str, Any] = {}

    def execute(self, out: Any = None, err: Any = None) -> TaskFailed | None:
        error = self._build.make(self._name)
        return TaskFailed(str(error), report=False) if error else None


class _Store(Dependency):  # type: ignore[misc]
    """doit's record of what is up to date, kept by our store: its own is written at exit, and a killed run would forget."""

    def __init__(self, build: Build) -> None:
        self._build = build

    def get_status(self, task: Task, tasks_dict: Any, get_log: bool = False) -> DependencyStatus:
        status = DependencyStatus(get_log)
        try:
            status.status = "up-to-date" if self._build.up_to_date(task.name) else "run"
        except Exception as error:  # raised here it would end the whole run
            status.status, status.error_reason = "error", str(self._build.failed(task.name, error))
        return status

    def save_success(self, task: Task, result_hash: Any = None) -> None:
        pass  # the record was written by commit

    def get_values(self, task_name: str) -> dict[str, Any]:
        return {}

    def status_is_ignore(self, task: Task) -> bool:
        return False

    def remove_success(self, task: Task) -> None:
        pass

    def close(self) -> None:
        pass


class _Quiet:
    """doit's reporter: what people see comes from the watcher."""

    def __getattr__(self, name: str) -> Any:
        if name == "initialize" or name.startswith("__"):
            raise AttributeError(name)
        return lambda *given: None
