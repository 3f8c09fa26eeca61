"""Which projects may run code of their own: a judge, a task's functions. Kept with the user, never in the project."""

from __future__ import annotations

import json
import os
from pathlib import Path

from buildsys.errors import UsageError, os_failure
from buildsys.graph import Step, Text
from buildsys.plan import Plan


def check(root: Path, plan: Plan) -> None:
    """Raises UsageError where a step that has to run would run code of a project that its user has not allowed to."""
    code = sorted({path for name in plan.run for path in _code(plan.graph.steps[name])})
    if code and not allowed(root):
        rows = [("file", os.path.relpath(path, root)) for path in code[:10]]
        rows += [("", f"… and {len(code) - 10} more")] if len(code) > 10 else []
        raise UsageError(f"{root} may not run code of its own", rows, "read the files, then: build allow")


def allowed(root: Path) -> bool:
    return str(root.resolve()) in _read()


def allow(root: Path, yes: bool) -> None:
    """Let a project run its code from now on, or no longer."""
    found = set(_read())
    found = found | {str(root.resolve())} if yes else found - {str(root.resolve())}
    place = _place()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        being_written = place.with_name(f"{place.name}.{os.getpid()}")
        being_written.write_text(json.dumps(sorted(found), indent=1) + "\n")
        being_written.replace(place)
    except OSError as error:
        raise os_failure(error, f"{place} could not be written") from error


def _code(step: Step) -> list[Path]:
    given = step.inputs.get("files", ())
    sources = given if isinstance(given, tuple) else (given,)
    return [one.path for one in sources if isinstance(one, Text)]  # a task's templates and YAML tags run code as well as a judge does


def _place() -> Path:
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(folder) / "buildsys" / "allowed.json"


def _read() -> list[str]:
    try:
        found = json.loads(_place().read_text())
    except (OSError, ValueError):
        return []
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
