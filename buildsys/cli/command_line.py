"""What all commands share: the group they belong to, their common options, and a project planned or built for one of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

import buildsys
from buildsys import machine, permission
from buildsys import plan as planning
from buildsys.cli import project as projects
from buildsys.cli import say
from buildsys.cli.watch import watcher

if TYPE_CHECKING:
    from buildsys.execute import Outcome

EXIT_CODE = [0]  # of the command that ran: click's callbacks return nothing through a group


@click.group(
    subcommand_metavar="[TARGET… | COMMAND …]",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`build TARGET…` makes targets; `build make --help` shows its options.",
)
@click.version_option(buildsys.__version__, prog_name="build")
def command() -> None:
    """make for models: compile behaviours into task vectors, verify them, merge them; rebuild only what is stale."""


folder_option = click.option("-C", "folder", default=".", metavar="DIR", help="Run as if started in DIR.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an internal error.")
targets_argument = click.argument("targets", nargs=-1)


def executed(project: projects.Project, plan: planning.Plan, jobs: int | None, *, keep_going: bool, quiet: bool) -> Outcome:
    """Make what a plan says; the command's exit code is known then, whatever becomes of what it prints."""
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
        with watcher(quiet or plan.nothing_to_do()) as told:
            outcome = execute(plan, project.cache, project.observer, told, jobs=jobs or machine.cores(), keep_going=keep_going)
    finally:
        if not plan.nothing_to_do():
            workers.leave_nothing()
    EXIT_CODE[0] = outcome.exit_code
    return outcome


def planned(folder: str, patterns: tuple[str, ...]) -> tuple[projects.Project, planning.Plan]:
    project = projects.opened(folder, click.get_current_context().obj)
    plan = planning.make(project.graph, project.cache, project.observer, patterns)
    say_notices(project)
    return project, plan


def say_notices(project: projects.Project) -> None:
    """What the plan has met in the cache and does not use."""
    for line in project.cache.notices():
        say(line)


def show_data(data: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps(data, ensure_ascii=False))
    else:
        print("\n".join(lines))
