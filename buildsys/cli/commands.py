"""The commands that build and look: arguments in, exit code out. What they print is made in `show`, what they do below the cli."""

from __future__ import annotations

import time
from pathlib import Path

import click

from buildsys import plan as planning
from buildsys import preflight
from buildsys.cli import exports, inside, say, show
from buildsys.cli import project as projects
from buildsys.cli.command_line import (
    command,
    debug_option,
    executed,
    folder_option,
    json_option,
    planned,
    say_notices,
    show_data,
    targets_argument,
)
from buildsys.errors import BuildError, UsageError
from buildsys.store import fresh


def _temperature(context: click.Context, option: click.Parameter, value: float) -> float:
    if value == 0 or value >= 0.01:
        return value
    raise click.BadParameter("0, or a number from 0.01 to 100")


@command.command("make", hidden=True)
@targets_argument
@folder_option
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be made, make nothing.")
@click.option("-k", "--keep-going", is_flag=True, help="Go on with what does not depend on a failure.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=None, help="Actions at once (default: one a core).")
@click.option("--force", is_flag=True, help="Make the named targets again and replace their results.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Say why each target is made.")
@debug_option
def make(
    targets: tuple[str, ...], folder: str, dry_run: bool, keep_going: bool, jobs: int | None, force: bool, as_json: bool,
    quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Make TARGETS (names or globs; none: the file's default)."""
    project = projects.opened(folder, click.get_current_context().obj)
    if not keep_going and not as_json:  # where one error ends the build: the others are told of every target
        preflight.check(project.graph, targets, project.observer)
    plan = planning.make(project.graph, project.cache, project.observer, targets, force=force)
    say_notices(project)
    if dry_run:
        show_data(show.plan_json(plan), show.status(plan), as_json)
        return
    if plan.nothing_to_do():
        projects.remember(project, targets, plan)
    else:
        project.cache.prepare()
        fresh.forget(str(project.cache.folder), list(targets))
    if verbose:
        for line in show.status(plan):
            say(line)
    started = time.monotonic()
    outcome = executed(project, plan, jobs, keep_going=keep_going, quiet=quiet, as_json=as_json)
    if not quiet:
        nothing = plan.nothing_to_do()
        say(projects.up_to_date(plan) if nothing else show.summary(outcome, plan, time.monotonic() - started))
    if as_json:
        show_data(show.outcome_json(outcome), [], as_json)
    if outcome.exit_code == 0 and not plan.nothing_to_do():
        projects.settle(project, targets)


@command.command("status")
@targets_argument
@folder_option
@json_option
@debug_option
def status(targets: tuple[str, ...], folder: str, as_json: bool) -> None:
    """Show what is fresh, stale or unknown yet, and why."""
    _, plan = planned(folder, targets or ("*",))
    show_data(show.plan_json(plan), show.status(plan), as_json)


@command.command("why")
@click.argument("target")
@folder_option
@json_option
@debug_option
def why(target: str, folder: str, as_json: bool) -> None:
    """Show what changed since TARGET was last made."""
    project, plan = planned(folder, (target,))
    lines = [line for name in plan.selected for line in show.why(project, plan, name)]
    chosen = {name: show.plan_json(plan)["targets"][name] for name in plan.selected}
    show_data({"exit": 0, "targets": chosen}, lines, as_json)


@command.command("list")
@folder_option
@json_option
@debug_option
def list_(folder: str, as_json: bool) -> None:
    """List the targets."""
    targets = projects.opened(folder, click.get_current_context().obj).graph.targets.values()
    found = {one.name: {"kind": one.kind, "node": one.node} for one in targets}
    show_data({"exit": 0, "targets": found}, [one.name for one in targets], as_json)


@command.command("show")
@click.argument("target")
@folder_option
@json_option
@debug_option
def show_(target: str, folder: str, as_json: bool) -> None:
    """Show an artifact: digest, files, facts, lineage; norms of a vector, angles and conflicts of a merge."""
    project, plan = planned(folder, (target,))
    found = [{**show.artifact_json(project, plan, name), "inside": inside.measured(project, plan, name)} for name in plan.selected]
    lines = [line for one in found for line in [*show.artifact(one), *inside.text(one["inside"]), ""]][:-1]
    show_data({"exit": 0, **found[0]} if len(found) == 1 else {"exit": 0, "targets": found}, lines, as_json)


@command.command("sample")
@click.argument("target")
@click.option("--prompt", required=True, help="What the model goes on from; a chat model takes it as the user's message.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=80, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 100),
    callback=_temperature,
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@folder_option
@json_option
@debug_option
def sample(
    target: str, prompt: str, max_new_tokens: int, temperature: float, seed: int, folder: str, as_json: bool
) -> None:  # fmt: skip
    """Generate from a built model."""
    project, plan = planned(folder, (target,))
    name = plan.selected[0]
    if project.graph.targets[name].kind not in ("base", "merged"):
        models = [one.name for one in project.graph.targets.values() if one.kind in ("base", "merged")]
        raise UsageError(f"{name} is no model", [("kind", project.graph.targets[name].kind)], f"models are {', '.join(models)}")
    if plan.targets[name].state != "fresh" or plan.targets[name].output:
        raise BuildError(f"{name} is not built as the Buildfile says", [("state", plan.targets[name].state)], f"build {name}")
    from buildsys.evaluation.generate import continuation

    text = continuation(project.cache.outputs.path(name), prompt, max_new_tokens, temperature, seed, project.graph.template_date)
    show_data({"exit": 0, "target": name, "prompt": prompt, "text": text}, [text], as_json, keep="\n\t")


@command.command("export")
@click.argument("target")
@click.argument("directory", metavar="DIR")
@click.option("--format", "form", type=click.Choice(["folder", "lora"]), default="folder", show_default=True)
@click.option("--rank", type=click.IntRange(1), default=None, help="Of the LoRA adapter.")
@folder_option
@json_option
@debug_option
def export(target: str, directory: str, form: str, rank: int | None, folder: str, as_json: bool) -> None:
    """Copy a built target out of the cache: a model's folder, or what it adds to its base as a LoRA adapter."""
    project, plan = planned(folder, (target,))
    if (form == "lora") != (rank is not None):
        raise UsageError("--format lora and --rank go together", hint="--rank 16 is a common choice; the energy kept is reported")
    found = exports.export(project, plan, plan.selected[0], exports.destination(project.root, Path(folder) / directory), rank)
    show_data({"exit": 0, **found}, exports.text(found), as_json)
