"""The commands and their options: arguments in, exit code out. What they print is made in `show`, what they do below the cli."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import click

import buildsys
from buildsys import machine, preflight
from buildsys import plan as planning
from buildsys.cli import exports, inside, show
from buildsys.cli import project as projects
from buildsys.cli.watch import watcher
from buildsys.errors import BuildError, Interrupted, UsageError, nearest
from buildsys.store import fresh


def run(arguments: list[str], seen: dict[str, bytes] | None = None) -> int:
    """Run one command line and return its exit code; every failure that a user can meet is printed as an error, not raised.

    seen  signatures of files that were asked for a moment ago
    """
    gc.disable()  # a short process whose many small objects all live to its end
    try:
        command.main(_normal(arguments), prog_name="build", standalone_mode=False, obj=seen)
        sys.stdout.flush()
        return _exit_code[0]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has had enough
        return 0
    except (KeyboardInterrupt, click.Abort):
        return _fail(Interrupted("interrupted"), arguments)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        return _fail(_usage(error), arguments)
    except BuildError as error:
        return _fail(error, arguments)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        facts = [(type(error).__name__, str(error))]
        return _fail(BuildError("an internal error", facts, "run again with --debug for the traceback"), arguments)


_exit_code = [0]  # of the command that ran: click's callbacks return nothing through a group


def _fail(error: BuildError, arguments: list[str]) -> int:
    if "--json" in arguments:
        print(json.dumps({"exit": error.exit_code, "error": str(error)}))
    if "--debug" in arguments and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    print(error, file=sys.stderr)
    return error.exit_code


def _usage(error: click.ClickException) -> UsageError:
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        close = nearest(error.option_name, ["--dry-run", "--keep-going", "--jobs", "--force", "--json", "--quiet", "--verbose", "--prompt"])
        return UsageError(
            f"there is no option {error.option_name}", hint=f"did you mean {close}?" if close else "'build --help' shows them"
        )
    return UsageError(message[:1].lower() + message[1:], hint="'build --help' shows the commands and their options")


def _normal(arguments: list[str]) -> list[str]:
    """`build -C DIR status` means `build status -C DIR`; what begins with no command makes targets."""
    first = 0
    while first < len(arguments) and arguments[first].startswith("-"):
        first += 2 if arguments[first] in ("-C", "-j", "--jobs") else 1
    if arguments[first : first + 1] and arguments[first] in command.commands:
        return [arguments[first], *arguments[:first], *arguments[first + 1 :]]
    return arguments if arguments in (["--help"], ["-h"], ["--version"]) else ["make", *arguments]


@click.group(
    subcommand_metavar="[TARGET… | COMMAND …]",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`build TARGET…` makes targets; `build make --help` shows its options.",
)
@click.version_option(buildsys.__version__, prog_name="build")
def command() -> None:
    """make for models: compile behaviours into task vectors, verify them, merge them; rebuild only what is stale."""


def _temperature(context: click.Context, option: click.Parameter, value: float) -> float:
    if value == 0 or value >= 0.01:
        return value
    raise click.BadParameter("0, or a number from 0.01 to 100")


_folder = click.option("-C", "folder", default=".", metavar="DIR", help="Run as if started in DIR.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
_debug = click.option("--debug", is_flag=True, help="Show the traceback of an internal error.")
_targets = click.argument("targets", nargs=-1)


@command.command("make", hidden=True)
@_targets
@_folder
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be made, make nothing.")
@click.option("-k", "--keep-going", is_flag=True, help="Go on with what does not depend on a failure.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=None, help="Actions at once (default: one a core).")
@click.option("--force", is_flag=True, help="Make the named targets again and replace their results.")
@_as_json
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Say why each target is made.")
@_debug
def make(
    targets: tuple[str, ...], folder: str, dry_run: bool, keep_going: bool, jobs: int | None, force: bool, as_json: bool,
    quiet: bool, verbose: bool, debug: bool,
) -> None:  # fmt: skip
    """Make TARGETS (names or globs; none: the file's default)."""
    project = projects.opened(folder, click.get_current_context().obj)
    if not keep_going and not as_json:  # where one error ends the build: the others are told of every target
        preflight.check(project.graph, targets, project.observer)
    plan = planning.make(project.graph, project.cache, project.observer, targets, force=force)
    if dry_run:
        _print(show.plan_json(plan), show.status(plan), as_json)
        return
    project.cache.prepare()
    project.observer.save()
    if plan.nothing_to_do():
        projects.remember(project, targets, plan)
    else:
        fresh.forget(str(project.cache.folder), list(targets))
    if verbose:
        for line in show.status(plan):
            print(line, file=sys.stderr)
    from buildsys.execute import execute  # doit, and through it much else: only where something may run

    started = time.monotonic()
    with watcher(quiet or plan.nothing_to_do()) as told:
        outcome = execute(plan, project.cache, project.observer, told, jobs=jobs or machine.cores(), keep_going=keep_going)
    for line in show.failures(outcome):
        print(line, file=sys.stderr)
    if not quiet:
        nothing = plan.nothing_to_do()
        print(projects.up_to_date(plan) if nothing else show.summary(outcome, plan, time.monotonic() - started), file=sys.stderr)
    if as_json:
        print(json.dumps(show.outcome_json(outcome), ensure_ascii=False))
    if outcome.exit_code == 0 and not plan.nothing_to_do():
        projects.settle(project, targets)
    _exit_code[0] = outcome.exit_code


@command.command("status")
@_targets
@_folder
@_as_json
@_debug
def status(targets: tuple[str, ...], folder: str, as_json: bool, debug: bool) -> None:
    """Show what is fresh, stale or unknown yet, and why."""
    _, plan = _planned(folder, targets or ("*",))
    _print(show.plan_json(plan), show.status(plan), as_json)


@command.command("why")
@click.argument("target")
@_folder
@_as_json
@_debug
def why(target: str, folder: str, as_json: bool, debug: bool) -> None:
    """Show what changed since TARGET was last made."""
    project, plan = _planned(folder, (target,))
    lines = [line for name in plan.selected for line in show.why(project, plan, name)]
    chosen = {name: show.plan_json(plan)["targets"][name] for name in plan.selected}
    _print({"exit": 0, "targets": chosen}, lines, as_json)


@command.command("list")
@_folder
@_as_json
@_debug
def list_(folder: str, as_json: bool, debug: bool) -> None:
    """List the targets."""
    targets = projects.opened(folder, click.get_current_context().obj).graph.targets.values()
    found = {one.name: {"kind": one.kind, "node": one.node} for one in targets}
    _print({"exit": 0, "targets": found}, [one.name for one in targets], as_json)


@command.command("show")
@click.argument("target")
@_folder
@_as_json
@_debug
def show_(target: str, folder: str, as_json: bool, debug: bool) -> None:
    """Show an artifact: digest, files, facts, lineage; norms of a vector, angles and conflicts of a merge."""
    project, plan = _planned(folder, (target,))
    found = [{**show.artifact_json(project, plan, name), "inside": inside.measured(project, plan, name)} for name in plan.selected]
    lines = [line for one in found for line in [*show.artifact(one), *inside.text(one["inside"]), ""]][:-1]
    _print({"exit": 0, **found[0]} if len(found) == 1 else {"exit": 0, "targets": found}, lines, as_json)


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
@_folder
@_as_json
@_debug
def sample(
    target: str, prompt: str, max_new_tokens: int, temperature: float, seed: int, folder: str, as_json: bool, debug: bool
) -> None:  # fmt: skip
    """Generate from a built model."""
    project, plan = _planned(folder, (target,))
    name = plan.selected[0]
    if project.graph.targets[name].kind not in ("base", "merged"):
        models = [one.name for one in project.graph.targets.values() if one.kind in ("base", "merged")]
        raise UsageError(f"{name} is no model", [("kind", project.graph.targets[name].kind)], f"models are {', '.join(models)}")
    if plan.targets[name].state != "fresh" or plan.targets[name].output:
        raise BuildError(f"{name} is not built as the Buildfile says", [("state", plan.targets[name].state)], f"build {name}")
    from buildsys.evaluation.generate import continuation

    text = continuation(project.cache.outputs.path(name), prompt, max_new_tokens, temperature, seed)
    _print({"exit": 0, "target": name, "prompt": prompt, "text": text}, [text], as_json)


@command.command("export")
@click.argument("target")
@click.argument("directory", metavar="DIR")
@click.option("--format", "form", type=click.Choice(["folder", "lora"]), default="folder", show_default=True)
@click.option("--rank", type=click.IntRange(1), default=None, help="Of the LoRA adapter.")
@_folder
@_as_json
@_debug
def export(target: str, directory: str, form: str, rank: int | None, folder: str, as_json: bool, debug: bool) -> None:
    """Copy a built target out of the cache: a model's folder, or what it adds to its base as a LoRA adapter."""
    project, plan = _planned(folder, (target,))
    if (form == "lora") != (rank is not None):
        raise UsageError("--format lora and --rank go together", hint="--rank 16 is a common choice; the energy kept is reported")
    found = exports.export(project, plan, plan.selected[0], (Path(folder) / directory).resolve(), rank)
    _print({"exit": 0, **found}, exports.text(found), as_json)


def _planned(folder: str, patterns: tuple[str, ...]) -> tuple[projects.Project, planning.Plan]:
    project = projects.opened(folder, click.get_current_context().obj)
    return project, planning.make(project.graph, project.cache, project.observer, patterns)


def _print(data: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps(data, ensure_ascii=False))
    else:
        print("\n".join(lines))
