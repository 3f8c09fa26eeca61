"""What `build show` measures of a vector and of a merge, and how it looks. Reads the tensors; changes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from buildsys.cli.project import Project
from buildsys.errors import aligned
from buildsys.plan import Plan
from buildsys.staging import Stage


def measured(project: Project, plan: Plan, target: str) -> dict[str, Any]:
    """Of a vector: norms. Of a merged model: how its vectors lie to each other. Nothing for what is not fresh, and for other kinds."""
    declared = project.graph.targets[target]
    if declared.kind not in ("vector", "merged") or plan.steps[declared.step].state != "fresh":
        return {}
    with staged(project, plan) as (stage, folder):
        from buildsys.merging import inspection, stream

        step, resolved = project.graph.steps[declared.step], plan.steps[declared.step].resolved
        assert resolved is not None
        if declared.kind == "vector":
            stage.artifact(step, folder / "vector")
            return inspection.vector(folder / "vector")
        paths = stage.inputs(step, resolved, folder / "in")
        given = resolved.action.parameters
        recipe = stream.Recipe(given["method"], given["options"], given["coefficients"], tokenizer=given["tokenizer"])
        work = stream.Merge(paths["base"], paths["vectors"], list(resolved.action.inputs["vectors"]), recipe)
        try:
            return inspection.merge(work, resolved.labels["vectors"])
        finally:
            work.close()


@contextmanager
def staged(project: Project, plan: Plan) -> Iterator[tuple[Stage, Path]]:
    """A workspace in which artifacts of a plan can be read."""
    artifacts = {name: one.artifact for name, one in plan.steps.items() if one.artifact}
    with tempfile.TemporaryDirectory(prefix="buildsys-") as folder:  # links only, and who may only read the cache can look too
        yield Stage(project.graph, project.cache, project.observer, artifacts), Path(folder)


def text(found: Mapping[str, Any]) -> list[str]:
    if "layers" in found:
        lines = ["", f"norm of τ  {found['norm']:.6g}"]
        for title, key in (("by layer", "layers"), ("moved most", "moved_most")):
            rows = [(name, f"{one['norm']:.4g}", f"{one['share']:.1%}") for name, one in found[key].items()]
            lines += ["", title, *aligned(rows)]
        return lines
    if "cosines" not in found:
        return []
    names = list(found["vectors"])
    table: list[tuple[str, ...]] = [("", "norm of τ", "of α·τ", "trimmed")]
    table += [
        (name, f"{norm:.4g}", f"{scaled:.4g}", f"{trimmed:.1%}")
        for name, norm, scaled, trimmed in zip(names, found["norms"], found["scaled_norms"], found["trimmed"], strict=True)
    ]
    lines = ["", "vectors", *aligned(table)]
    lines += ["", "cosines of α·τ", *_matrix(names, found["cosines"], "{:+.2f}")]
    lines += ["", "entries that two vectors pull in opposite directions", *_matrix(names, found["conflicts"], "{:.1%}")]
    lines += ["", f"entries kept with both signs  {found['opposed']:.1%}"]
    if "worst_pair" in found:
        one, other = found["worst_pair"]["vectors"]
        cosine, conflict = found["worst_pair"]["cosine"], found["worst_pair"]["conflict"]
        lines += [f"worst pair  {one} and {other}: cosine {cosine:+.2f}, {conflict:.1%} of the entries that both move pull apart"]
    return lines + _mismatch(found)


def _mismatch(found: Mapping[str, Any]) -> list[str]:
    """A warning where one vector drowns another, with the factors that would make their norms equal."""
    from buildsys.merging.inspection import MISMATCH

    if not found["mismatch"] > MISMATCH:
        return []
    norms = found["scaled_norms"]
    middle = sorted(norms)[len(norms) // 2]
    rows = [(name, f"× {middle / norm:.3g}" if norm else "is 0") for name, norm in zip(found["vectors"], norms, strict=True)]
    head = f"warning: the largest α·τ is {found['mismatch']:.1f} times the smallest; coefficients that make them equal are today's"
    return ["", head, *aligned(rows)]


def _matrix(names: Sequence[str], numbers: Sequence[Sequence[float]], form: str) -> list[str]:
    """Lower triangle; columns by number, as names may be long."""
    head = ("", *(str(at) for at in range(1, len(names) + 1)))
    rows = [(f"{at} {name}", *(form.format(numbers[at - 1][other]) for other in range(at))) for at, name in enumerate(names, 1)]
    return aligned([head, *rows])
