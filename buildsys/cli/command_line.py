"""What all commands share: the group they belong to, their common options, and a project planned or built for one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

import buildsys
from buildsys import failures, machine, permission
from buildsys import plan as planning
from buildsys.cli import project as projects
from buildsys.cli import say, show
from buildsys.cli.watch import watcher
from buildsys.terminal import json_line, printable

if TYPE_CHECKING:
    from buildsys.execute import Outcome


@dataclass
class Invocation:
    """What a command line asked for, and its exit code so far: click's callbacks return nothing through a group."""

    exit_code: int = 0
    folder: str = "."
    debug: bool = False


INVOCATION = Invocation()


def _folder(context: click.Context, option: click.Parameter, value: str) -> str:
    if "\0" in value:
        raise click.BadParameter("a path has no NUL")
    INVOCATION.folder = value
    return value


def _debug(context: click.Context, option: click.Parameter, value: bool) -> None:
    INVOCATION.debug |= value


folder_option = click.option("-C", "folder", default=".", metavar="DIR", is_eager=True, callback=_folder, help="Run as if started in DIR.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_debug,
    help="Show tracebacks, and run steps in this process, one at a time, where breakpoint() works.",
)
targets_argument = click.argument("targets", nargs=-1)


@click.group(
    subcommand_metavar="[TARGET… | COMMAND …]",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`build TARGET…` makes targets; `build make --help` shows its options.",
)
@click.version_option(buildsys.__version__, prog_name="build")
def command() -> None:
    """make for models: compile behaviours into task vectors, verify them, merge them; rebuild only what is stale."""


def executed(
    project: projects.Project, plan: planning.Plan, jobs: int | None, *, keep_going: bool, quiet: bool, as_json: bool
) -> Outcome:  # fmt: skip
    """Make what a plan says, and tell of what failed; the command's exit code is known then, whatever becomes of what it prints."""
    from buildsys import workers
    from buildsys.execute import execute  # doit, and through it much else: only where something may run
    from buildsys.perform import refuse_foreign_training

    permission.check(project.root, plan, project.observer)
    permission.leave_out_modules(project.root)
    for name in plan.run:
        resolved = plan.steps[name].resolved
        if resolved is not None and name not in plan.forced:
            refuse_foreign_training(plan.graph.steps[name], resolved.key, project.cache)
    if not plan.nothing_to_do():
        project.cache.prepare()
    project.observer.save()
    try:
        debug = INVOCATION.debug
        with watcher(quiet or plan.nothing_to_do(), debug) as told, _stdout_for_data(debug and as_json):
            outcome = execute(plan, project.cache, project.observer, told, jobs=jobs or machine.cores(), keep_going=keep_going, debug=debug)
    finally:
        if not plan.nothing_to_do():
            workers.leave_nothing()
    INVOCATION.exit_code = outcome.exit_code
    for result in outcome.targets.values():
        if debug and result.error is not None and result.error.__cause__ is not None:
            say(*failures.chain(result.error))
    say(*show.failures(outcome))
    return outcome


@contextmanager
def _stdout_for_data(alone: bool) -> Iterator[None]:
    """Keep what steps in this process print, from C as well, away from a JSON object on stdout."""
    if not alone:
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def planned(folder: str, patterns: tuple[str, ...]) -> tuple[projects.Project, planning.Plan]:
    project = projects.opened(folder, click.get_current_context().obj)
    plan = planning.make(project.graph, project.cache, project.observer, patterns)
    say_notices(project)
    return project, plan


def say_notices(project: projects.Project) -> None:
    """What the plan has met in the cache and does not use."""
    for line in project.cache.notices():
        say(line)


def show_data(data: dict[str, Any], lines: list[str], as_json: bool, keep: str = "") -> None:
    """What a command is asked for, on stdout: as one JSON object, or as lines that a terminal may show.

    keep  control characters that a line may hold
    """
    print(json_line(data, sys.stdout.encoding) if as_json else "\n".join([printable(line, keep) for line in lines]))
