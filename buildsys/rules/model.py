"""A model that exists already: a folder, named and checked but not copied, or a pinned revision from the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 2
ROLES = {"folder": "a Hugging Face folder of the user's"}
PRELOAD = ("numpy",)
FLUSH = False
REFERS = "folder"


class Params(Strict):
    hub: str | None = None
    revision: str | None = None


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys import hub
    from buildsys.tensors import checkpoints, completeness, folders

    if params.hub is not None and params.revision is not None:
        progress(f"fetching {params.hub}")
        folder = hub.snapshot("model", params.hub, params.revision, folders.MODEL_PATTERNS, completeness.unproven)
        folders.check(folder, folders.model_files(path.name for path in folder.iterdir()))
        facts = checkpoints.checked(folder)
        checkpoints.copy(folder, out)
        return facts
    progress("checking")
    return checkpoints.checked(inputs["folder"])
