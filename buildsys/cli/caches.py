"""The commands about the cache itself: is what it holds what it says, and who is believed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from buildsys import files, rules
from buildsys import plan as planning
from buildsys.cli import project as projects
from buildsys.cli import say
from buildsys.cli.command_line import INVOCATION, command, debug_option, folder_option, json_option, say_notices, show_data
from buildsys.errors import BuildError, UsageError, aligned
from buildsys.store import checking, opening, secret, trusting
from buildsys.store.cache import Cache

_SECONDS_BETWEEN_LINES = 5.0

_MEANING = """\
{number} in {cache} carry no mark of yours: another user, another machine or an
earlier buildsys wrote them, or they were changed since.
To trust them means: what they say was built from what is believed from now on.
buildsys checks that their bytes are those that they name, not that a training
gave these bytes: whoever wrote this cache decides what your builds use.
"""


class _Seldom:
    """Says how far a long look has come, every few seconds."""

    def __init__(self, doing: str) -> None:
        self._doing, self._said = doing, time.monotonic()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            say(f"{self._doing}: {text}")

    def of_step(self, step: str, text: str, share: float | None) -> None:
        self(f"{step} · {text}")


@command.command("check")
@click.argument("target", required=False)
@folder_option
@json_option
@debug_option
def check(target: str | None, folder: str, as_json: bool) -> None:
    """Hash everything in the cache again; with TARGET, make it again beside the cache and compare digests."""
    project = projects.opened(folder, click.get_current_context().obj)
    if target is not None:
        _check_target(project, target, as_json)
        return
    findings = checking.check(project.cache, _Seldom("checking"))
    plan = planning.make(project.graph, project.cache, project.cache.glance(), ("*",))
    for name in plan.selected:
        if plan.targets[name].output:
            findings.problems.append((f"out/{name}", f"{plan.targets[name].output}: the next build puts it right"))
    findings.checked["outputs"] = sum(plan.targets[name].state == "fresh" for name in plan.selected)
    project.cache.stat_cache.save()
    INVOCATION.exit_code = 1 if findings.problems else 0
    counts = ", ".join(f"{number} {kind}" for kind, number in findings.checked.items())
    listed = [entry.name for entry in files.entries(project.cache.outputs.folder)]
    unknown = [name for name in sorted(listed) if name not in project.graph.targets and not name.startswith(".")]
    findings.notes += [f"out/{name} is of no target of this Buildfile" for name in unknown]
    lines = [*aligned(findings.problems, indent=""), *(f"note: {note}" for note in findings.notes)]
    number = len(findings.problems)
    lines.append(f"{counts}: {_problems(number)}")
    problems = [{"path": path, "problem": text} for path, text in findings.problems]
    show_data({"exit": INVOCATION.exit_code, "checked": findings.checked, "problems": problems, "notes": findings.notes}, lines, as_json)


def _problems(number: int) -> str:
    return f"{number} problem{'' if number == 1 else 's'}" if number else "all as they should be"


def _check_target(project: projects.Project, pattern: str, as_json: bool) -> None:
    from buildsys import permission, reproduce, workers

    plan = planning.make(project.graph, project.cache, project.observer, (pattern,))
    say_notices(project)
    permission.check(project.root, planning.remade(plan), project.observer)
    permission.leave_out_modules(project.root)
    project.cache.prepare()
    data: dict[str, Any] = {}
    lines: list[str] = []
    compared = {}
    try:
        for name in plan.selected:
            compared[name] = reproduce.compare(plan, project.cache, project.observer, name, _Seldom(name).of_step, debug=INVOCATION.debug)
    finally:
        workers.leave_nothing()
    for name, steps in compared.items():
        data[name] = {step: {field: value for field, value in vars(one).items() if value} for step, one in steps.items()}
        for step, one in steps.items():
            lines.append(f"{step}: {one.state}{f'  {one.recorded[:16]}' if one.state == 'same' else ''}")
            lines += aligned([(file, f"{old[:16] or 'none'} → {new[:16] or 'none'}") for file, (old, new) in (one.differs or {}).items()])
            lines += aligned([("made on", one.made_on), ("made here", one.made_here)]) if one.state == "not comparable" else []
    states = [one["state"] for steps in data.values() for one in steps.values()]
    INVOCATION.exit_code = 1 if "different" in states or set(states) <= {"not built"} else 0
    show_data({"exit": INVOCATION.exit_code, "targets": data}, lines, as_json)


@command.group("cache")
def cache() -> None:
    """Who is believed in this project's cache."""


@cache.command("trust")
@click.option("--secret", "file", default=None, metavar="FILE", help="Share this cache: mark and check with the secret in FILE.")
@click.option("--secret-env", "variable", default=None, metavar="NAME", help="The same, with the secret in an environment variable.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@folder_option
@json_option
@debug_option
def trust(file: str | None, variable: str | None, yes: bool, folder: str, as_json: bool) -> None:
    """Adopt what this cache says without a mark of yours, once, after saying what that means."""
    path = projects.root(folder) / "cache"
    if file is not None and variable is not None:
        raise UsageError("--secret and --secret-env exclude each other", hint="a cache has one secret")
    if not path.exists():
        raise UsageError(f"{path} does not exist yet", hint="build something first")
    opening.check(path)  # before the secret is asked for: another one may be bound because it cannot be used any more
    if file is not None or variable is not None:
        secret.bind(path, file=Path(os.path.abspath(Path(folder) / file)) if file is not None else None, environment=variable)
    store = Cache.open(path, consented=True)
    linked = path.is_symlink() and not store.projects.known()
    foreign = trusting.foreign(store)
    earlier = (path / "FORMAT").exists() and (path / "FORMAT").read_text() == opening.EARLIER
    if not foreign.number() and not earlier and not linked:
        show_data({"exit": 0, "adopted": {}, "left": []}, ["everything in cache/ carries your mark"], as_json)
        return
    if linked:
        say(f"{path} is a link: this project will write into {os.path.realpath(path)}, and use what is there.")
    meaning = _MEANING if foreign.number() or earlier else ""
    for line in meaning.format(number=_listed(foreign), cache=path).splitlines():
        say(line)
    if not yes and not _agreed():
        raise UsageError("nothing was adopted", hint="build cache trust --yes adopts without asking")
    store.prepare()
    adoption = trusting.adopt(store, foreign, _values_of, _Seldom("adopting"))
    lines = [f"adopted {_numbered(adoption.adopted) or 'nothing'}"]
    if adoption.left:
        lines += ["left as they are, and not used:", *aligned(adoption.left)]
    show_data({"exit": 0, "adopted": adoption.adopted, "left": adoption.left}, lines, as_json)


def _values_of(rule: str) -> tuple[str, ...] | None:
    """The names of the values that a rule's artifacts have; None where there is no such rule."""
    return getattr(rules.get(rule), "VALUES", ()) if rule in rules.names() else None


def _listed(foreign: trusting.Foreign) -> str:
    numbers = {
        "records": len(foreign.records),
        "measurements": len(foreign.measurements),
        "generations": len(foreign.generations),
        "checkpoints": len(foreign.checkpoints),
    }
    return _numbered(numbers) or "no records"


def _numbered(numbers: Mapping[str, int]) -> str:
    """As in "2 records, 1 generation": kinds are named in the plural."""
    return ", ".join(f"{number} {kind if number != 1 else kind[:-1]}" for kind, number in numbers.items() if number)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return click.confirm("Trust them?", default=False, err=True)
    except click.Abort as error:
        raise BuildError("nothing was adopted") from error
