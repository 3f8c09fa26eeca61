"""The model card of a built model: recipe, coefficients, digests, measured figures. Written beside the artifact, part of no digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def text(
    name: str,
    recipe: Sequence[tuple[str, str]],
    digest: str,
    vectors: Sequence[tuple[str, Any, str]],
    verdicts: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> bytes:
    """README.md for a model folder.

    vectors   (name, coefficient, digest) of a merge; a coefficient may be a list over depth or a table of patterns
    verdicts  vector -> what its verification found
    """
    lines = ["---", "library_name: transformers", "tags: [buildsys]", "---", "", f"# {name}", ""]
    lines += _table(("", ""), [("digest", f"`{digest}`"), *((head, str(value)) for head, value in recipe)])
    if vectors:
        rows = [(vector, _shown(coefficient), f"`{of[:16]}`", _measured(verdicts.get(vector))) for vector, coefficient, of in vectors]
        lines += ["", "## Vectors", "", *_table(("vector", "coefficient", "digest", "verified alone"), rows)]
    shown = [(key, str(value)) for key, value in facts.items() if isinstance(value, (int, float, str)) and key not in _MACHINE]
    if shown:
        lines += ["", "## Facts", "", *_table(("", ""), shown)]
    return "\n".join([*lines, ""]).encode()


_MACHINE = ("seconds", "seconds_training", "machine", "time")


def _shown(coefficient: Any) -> str:
    if isinstance(coefficient, Mapping):
        return ", ".join(f"`{pattern}` {_shown(one)}" for pattern, one in coefficient.items())
    return ", ".join(map(_shown, coefficient)) if isinstance(coefficient, list) else f"{coefficient:g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def _measured(verdict: Mapping[str, Any] | None) -> str:
    if not verdict or not verdict.get("passed"):
        return "not verified"
    metric = verdict["metric"]
    forgetting = ", ".join(f"{name} {rise:+.1%}" for name, rise in verdict["forgetting"].items())
    shift = f"{metric} {verdict['base'][metric]:.3f} → {verdict[metric]:.3f} at {verdict['coefficient']:g}"
    return f"{shift}; {forgetting}" if forgetting else shift
