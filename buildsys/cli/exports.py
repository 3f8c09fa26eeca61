"""`build export`: a built target as a folder of its own, or as a LoRA adapter. All of it or nothing."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildsys import plan as plans
from buildsys.cli.inside import staged
from buildsys.cli.project import Project
from buildsys.errors import BuildError, UsageError, os_failure
from buildsys.graph import Output
from buildsys.plan import Plan
from buildsys.staging import Stage


def destination(root: Path, path: Path) -> Path:
    """Where an export to a path goes, links outside of the project followed: they are the user's own.

    Raises UsageError for a link of the project on the way: whoever wrote the project chose where it leads.
    """
    path = Path.cwd() / path
    for place in (*reversed(path.parents), path):
        if os.path.islink(place) and Path(os.path.realpath(place.parent)).is_relative_to(os.path.realpath(root)):
            facts = [("link", str(place)), ("destination", os.readlink(place))]
            raise UsageError(f"{place.name} is a link of the project, and nothing is exported through one", facts, "name another folder")
    return Path(os.path.realpath(path))


def export(project: Project, plan: Plan, target: str, directory: Path, rank: int | None) -> dict[str, Any]:
    """Write a folder that nothing in the cache shares, and say what is in it.

    rank  of a LoRA adapter; None: the target's own files

    Raises UsageError for a target that has none, BuildError where it is not built or the folder is taken.
    """
    kind = project.graph.targets[target].kind
    if kind not in ("base", "merged", "vector") or (rank is not None and kind == "base"):
        what = "adds nothing to a base" if kind == "base" else "has no files to export"
        raise UsageError(f"{target} {what}", [("kind", kind)], "models and vectors can be exported, merged models and vectors as adapters")
    if plan.targets[target].state != "fresh" or plan.targets[target].output:
        raise BuildError(f"{target} is not built as the Buildfile says", [("state", plan.targets[target].state)], f"build {target}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BuildError(f"{directory} is not empty", hint="name a folder that does not exist yet")
    new = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
    try:
        new.mkdir(parents=True)
        facts: dict[str, Any] = {}
        if rank is None and kind == "vector":
            facts = _tensors(project, plan, target, new)
        elif rank is None:
            _copy_files(project, plan, target, new)
        else:
            facts = _adapter(project, plan, target, rank, new)
        for path in new.iterdir():
            os.chmod(path, 0o644)
        if directory.exists():
            directory.rmdir()
        os.rename(new, directory)
    except OSError as error:
        raise os_failure(error, f"{directory} cannot be written") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    files = {path.name: path.stat().st_size for path in sorted(directory.iterdir())}
    return {"target": target, "path": str(directory), "files": files, **facts}


def _copy_files(project: Project, plan: Plan, target: str, out: Path) -> None:
    """The files that the target's output consists of; links are followed, and what else stands in the folder is left there."""
    artifacts = {name: step.artifact for name, step in plan.steps.items() if step.artifact}
    resolved = {name: step.resolved for name, step in plan.steps.items() if step.resolved}
    content = plans.content(project.graph, project.graph.targets[target], artifacts, resolved)
    for name in (*content.files, *content.links, *content.texts):
        shutil.copyfile(project.cache.outputs.path(target) / name, out / name)


def _tensors(project: Project, plan: Plan, target: str, out: Path) -> dict[str, Any]:
    """Every τ, whole: what a vector by reference, or a packed one, stands for."""
    from buildsys.tensors import vectors, writing

    with staged(project, plan) as (stage, folder):
        stage.artifact(project.graph.steps[project.graph.targets[target].step], folder / "vector")
        vector = vectors.Vector(folder / "vector")
        kinds = {name: "BF16" if tau.short else "F32" for name, tau in vector.taus.items()}
        writer = writing.Writer(out / "vector.safetensors", {name: (kinds[name], tau.shape) for name, tau in vector.taus.items()}, {})
        for name in sorted(vector.taus):
            writing.write_rounded(writer, name, kinds[name], vector.whole(name))
        writer.close()
    return {"tensors": len(kinds)}


def _adapter(project: Project, plan: Plan, target: str, rank: int, out: Path) -> dict[str, Any]:
    from buildsys.merging import lowrank

    declared = project.graph.targets[target]
    step = project.graph.steps[declared.step]
    with staged(project, plan) as (stage, folder):
        place = folder / "vector"
        if declared.kind == "merged":
            base = _step_of(step.inputs["base"])
            place.mkdir()
            (place / "vector.json").write_text('{"base": "", "dtype": "float32", "model": ""}')
            stage.artifact(step, place / "model")
        else:
            base = base_of(stage, declared.step)
            stage.artifact(step, place)
        below = place / "base" if declared.kind == "merged" else folder / "base"
        stage.artifact(project.graph.steps[base], below)
        return lowrank.export(place, below, rank, base, out)


def base_of(stage: Stage, step: str) -> str:
    """The step of the base that a vector was taken from."""
    while "base" not in (inputs := stage.graph.steps[step].inputs):
        given = inputs.get("vector") or inputs["vectors"]
        step = _step_of(given[0] if isinstance(given, tuple) else given)
    return _step_of(inputs["base"])


def _step_of(source: object) -> str:
    assert isinstance(source, Output)
    return source.step


def text(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{found['target']} → {found['path']} ({len(found['files'])} files, {sum(found['files'].values()):,} bytes)"]
    if "energy" in found:
        lines.append(f"rank {found['rank']} keeps {found['energy']:.2%} of the difference, in {found['modules']} modules")
    if found.get("left_out"):
        names = found["left_out"]
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        lines.append(f"not in an adapter: {len(names)} tensors with {found['energy_left_out']:.2%} of it ({shown})")
    return lines
