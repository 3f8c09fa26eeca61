"""The commands about what is declared: the memory graph, a new behaviour, what code may run, which vector of a merge is to blame."""

from __future__ import annotations

import os
from pathlib import Path

import click

from buildsys import permission
from buildsys import plan as planning
from buildsys.cli import adding, chart, say
from buildsys.cli import bisect as bisection
from buildsys.cli import project as projects
from buildsys.cli.command_line import (
    command,
    debug_option,
    executed,
    folder_option,
    json_option,
    show_data,
)


@command.command("allow")
@click.option("--revoke", is_flag=True, help="Take the permission back.")
@folder_option
@debug_option
def allow(revoke: bool, folder: str) -> None:
    """Let this project run code of its own as it is now: judges, and the files of lm_eval tasks. Changed files ask again."""
    root = projects.root(folder)
    if revoke:
        permission.revoke(root)
        show_data({}, [f"{root} may no longer run code of its own"], as_json=False)
        return
    project = projects.opened(folder, click.get_current_context().obj)
    names = permission.allow(root, project.graph, project.observer)
    show_data({}, [*(f"  {name}" for name in names), f"{root} may run {_number(names)} of its own"], as_json=False)


def _number(files: list[str]) -> str:
    return "these files" if len(files) > 1 else "this file" if files else "no code: no target names any"


@command.command("graph")
@click.option("--format", "form", type=click.Choice(["text", "mermaid", "dot", "json"]), default="text", show_default=True)
@folder_option
@json_option
@debug_option
def graph(form: str, folder: str, as_json: bool) -> None:
    """Show the memory graph and what becomes of it: node → behaviour → vector → merges; say where they do not map 1:1."""
    opened = projects.opened(folder, click.get_current_context().obj).graph
    found = chart.described(opened, dict(opened.nodes), list(opened.misfits))
    drawn = {"text": chart.text, "mermaid": chart.mermaid, "dot": chart.dot, "json": chart.text}[form](found)
    show_data({"exit": 0, **found}, drawn, as_json or form == "json")
    for line in opened.misfits:
        say(f"warning: {line}")


@command.group("add")
@debug_option
def add() -> None:
    """Declare something new in the Buildfile."""


@add.command("behavior")
@click.argument("name")
@click.option(
    "--node", required=True, metavar="ID", help="The memory node that specifies it, or an aspect, as ID#ASPECT; made if it is new."
)
@click.option("--examples", required=True, metavar="FILE", help="What it is trained on.")
@click.option("--rows", default=None, metavar="FILE", help="What it is verified on; else a share of the examples is held out.")
@click.option("--base", default=None, metavar="NAME", help="Its base, where the file has several.")
@folder_option
@json_option
@debug_option
def add_behavior(
    name: str, node: str, examples: str, rows: str | None, base: str | None, folder: str, as_json: bool
) -> None:  # fmt: skip
    """Write the table of a behaviour, and its node; comments and order of the file stay."""
    root = projects.root(folder)
    inside_root = [None if path is None else os.path.relpath(Path(folder) / path, root) for path in (examples, rows)]
    found = adding.behavior(root, name, node, inside_root[0] or "", inside_root[1], base)
    lines = [f"wrote {os.path.relpath(path)}" for path in found["wrote"]] + [f"next: build {found['targets'][-1]}"]
    show_data({"exit": 0, **found}, lines, as_json)


@command.command("bisect")
@click.argument("target")
@click.option("--metric", required=True, help="A verified behaviour, or a control set of the merge.")
@folder_option
@click.option("-j", "--jobs", type=click.IntRange(1), default=None, help="Actions at once (default: one a core).")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print errors and the result only.")
@debug_option
def bisect(target: str, metric: str, folder: str, jobs: int | None, as_json: bool, quiet: bool) -> None:
    """Find which vectors of a merge cost it a metric: the merge without each of them, then without pairs."""
    project = projects.opened(folder, click.get_current_context().obj)
    name = project.graph.selected((target,))[0]
    graph, step = bisection.asked(project.graph, name, metric)
    plan = planning.make(graph, project.cache, project.observer, (step,))
    outcome = executed(project, plan, jobs, keep_going=False, quiet=quiet, as_json=as_json)
    if outcome.exit_code == 0:
        after = planning.make(graph, project.cache, project.cache.observer(), (step,)).steps[step]
        assert after.artifact is not None
        assert after.resolved is not None
        found = bisection.named(after.artifact.values["bisect.json"], after.resolved.labels["vectors"], metric)
        show_data({"exit": 0, "target": name, **found}, bisection.text(found, name, metric), as_json)
