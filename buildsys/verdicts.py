"""A verdict that is no, as an error: every coefficient that was tried, with metric, gain, gates and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from buildsys.errors import BuildError, aligned
from buildsys.evaluation.names import FALLING
from buildsys.store.records import Artifact


def error(target: str, artifact: Artifact, kept: str = "") -> BuildError:
    """What kept a target from being verified, or a merge from passing its checks.

    kept  where the refused model stays, "" where there is none
    """
    if "checks.json" in artifact.values:
        checks = artifact.values["checks.json"]
        rows = [(line,) for line in aligned(_checked(checks), indent="")]
        rows += [(f"the refused model is in {kept}",)] if kept else []
        hint = f"build bisect {target} --metric {_worst(checks)} names the vector that costs it"
        return BuildError(f"{target} does not pass its checks: {checks['reason']}", rows, hint)
    verdict = artifact.values["verdict.json"]
    rows = [(line,) for line in aligned(_tried(verdict), indent="")]
    return BuildError(f"{target} is not verified: {verdict['reason']}", rows, _HINT)


def text(found: Mapping[str, Any]) -> list[str]:
    """A verdict for people, of a verification or of a merge's checks."""
    if "behaviours" in found:
        head = "passed" if found["passed"] else f"not passed: {found['reason']}"
        return [f"checks  {head}", *aligned(_checked(found))]
    head = f"passed at {found['coefficient']:g}" if found["passed"] else f"not passed: {found['reason']}"
    return [f"verdict  {head}", *aligned(_tried(found))]


_HINT = "train it longer or otherwise, or change the gates in its verify table: they are judged again without a new evaluation"


def _tried(verdict: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Every coefficient with its figures."""
    metric, table = verdict["metric"], verdict["table"]
    controls, relative = list(table[0]["forgetting"]), metric in FALLING
    factored = "odds_factor" in table[0]
    found = [("coefficient", metric, "gain", *(["odds ÷"] if factored else []), *(f"{name} worse by" for name in controls), "")]
    for row in table:
        note = "chosen" if row["coefficient"] == verdict["coefficient"] else ""
        cells = [f"{row['coefficient']:g}", _figure(row[metric], row[f"{metric}_interval"], "{:.3f}")]
        cells.append(_figure(row["gain"], row["gain_interval"], "{:+.1%}" if relative else "{:+.3f}"))
        cells += [_figure(row["odds_factor"], row["odds_factor_interval"], "{:.1f}")] if factored else []
        cells += [_figure(row["forgetting"][name], row["forgetting_interval"][name], "{:+.1%}") for name in controls]
        found.append((*cells, note if row["within_gates"] else "forgets too much"))
    found.append((f"gates  {_gates(verdict['gates'], verdict['metric'])}",))
    found.append((f"{verdict['confidence']:.0%} intervals; gains are judged on {_judged(verdict)}rows, the others on all {table[0]['n']}",))
    return found


def _worst(checks: Mapping[str, Any]) -> str:
    """The first behaviour or control set that a merge fails."""
    return next((str(row["name"]) for row in [*checks["behaviours"], *checks["controls"]] if not row["passed"]), "NAME")


def _gates(gates: Mapping[str, Any], metric: str) -> str:
    """What had to hold, each by the worse end of its interval."""
    found = [f"gain at least {gates['min_gain']:g}" if gates["min_gain"] else "gain above 0"]
    found += [f"{metric} at least {gates['min_metric']:g}"] if gates["min_metric"] is not None else []
    found += [f"odds ÷ {gates['reduce']:g} or more"] if gates["reduce"] is not None else []
    limits = [(name, limit) for name, limit in gates["max_forgetting"].items() if limit is not None]
    return " · ".join(found + [f"{name} worse by {limit:.1%} at most" for name, limit in limits])


def _checked(checks: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Every behaviour and control set of a merge."""
    found: list[tuple[str, ...]] = [("behaviour", "metric", "base", "alone", "merged", "kept", "rows", "")] if checks["behaviours"] else []
    for row in checks["behaviours"]:
        share = _figure(row["kept"], row["kept_interval"], "{:.0%}") if row["judged"] else "its own gain may be none"
        figures = [f"{row[name]:.3f}" for name in ("base", "alone", "merged")]
        found.append((row["name"], row["metric"], *figures, share, str(row["n"]), "" if row["passed"] else "keeps too little"))
    for row in checks["controls"]:
        worse = _figure(row["forgetting"], row["forgetting_interval"], "{:+.1%}")
        found.append((row["name"], row["metric"], "", "", "", f"{worse} worse", str(row["n"]), "" if row["passed"] else "forgets too much"))
    return found


def _judged(verdict: Mapping[str, Any]) -> str:
    return f"{verdict['n']} " if "n" in verdict else "half of the "


def _figure(value: float, interval: Sequence[float], form: str) -> str:
    return f"{form.format(value)} [{form.format(interval[0])}, {form.format(interval[1])}]"
