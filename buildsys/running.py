"""One action in whatever process it runs: what it is asked, what its libraries find in the environment, its failure in our words."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from buildsys import failures, rules
from buildsys.errors import BuildError, os_failure
from buildsys.progress import Progress

Report = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Request:
    """One action as a worker sees it: paths and parameters, no target and no key."""

    rule: str
    parameters: Mapping[str, Any]
    paths: Mapping[str, Any]
    digests: Mapping[str, Any]
    out: Path
    folder: Path
    settings: Mapping[str, Any]
    log: Path
    cache: Path


class Runner(Protocol):
    """Where actions run: `workers.Workers`, or `debugging.InProcess`."""

    def run(self, request: Request, report: Report) -> dict[str, Any]:
        """Run one action and return its facts. Raises its BuildError."""

    def close(self) -> None:
        """End whatever runs now."""


def facts_of(request: Request, report: Report) -> dict[str, Any]:
    """Run an action here, and return its facts. Raises BuildError, whatever stops it, with that as its cause."""
    try:
        rule = rules.get(request.rule)
        params = rule.Params(**request.parameters)
        progress = Progress(request.folder, report, request.settings, request.cache)
        facts: dict[str, Any] = rule.run(rules.Inputs(request.paths, request.digests), params, request.out, progress)
    except (KeyboardInterrupt, SystemExit, BuildError):
        raise
    except OSError as error:
        raise os_failure(error, "its rule could not go on") from error
    except MemoryError as error:
        raise BuildError("there is not enough memory", hint="use a smaller batch, or fewer jobs with -j") from error
    except BaseException as error:  # a panic of a library in Rust is not an Exception, and cannot be sent to the build
        raise failures.unexpected(error, "its rule stopped with an unexpected error") from error
    return facts


def set_environment() -> None:
    """What the libraries of rules have to find in the environment before they are loaded."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quiet = "ignore:resource_tracker:UserWarning"  # it counts what a build that has ended left to it
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), quiet)))
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's products: sums in an order that no machine's load decides
    os.environ["PYTHONSAFEPATH"] = "1"  # a module in the project's folder is not taken for a library's
