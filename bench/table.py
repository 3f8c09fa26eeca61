"""Rows of a benchmark as a table for people or as JSON: what, value, unit, target, ok."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """`ok` is None for a figure that has no target and stands for comparison."""

    what: str
    value: float
    unit: str
    target: str = ""
    ok: bool | None = None


def at_most(what: str, value: float, limit: float, unit: str) -> Row:
    return Row(what, round(value, 4), unit, f"≤ {limit:g} {unit}", value <= limit)


def at_least(what: str, value: float, limit: float, unit: str) -> Row:
    return Row(what, round(value, 4), unit, f"≥ {limit:g} {unit}", value >= limit)


def command(measure: Callable[[], list[Row]], title: str) -> None:
    """Run a benchmark as a command."""
    given = parser(title).parse_args()
    show(measure(), title, given.json)


def parser(title: str) -> argparse.ArgumentParser:
    """What every benchmark's command takes."""
    made = argparse.ArgumentParser(description=title)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def show(rows: list[Row], title: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, ensure_ascii=False))
        return
    print(title)
    width = max(len(row.what) for row in rows)
    for row in rows:
        mark = {True: "ok", False: "MISSED", None: ""}[row.ok]
        print(f"  {row.what.ljust(width)}  {row.value:>10.4g} {row.unit:<8}  {row.target:<14} {mark}".rstrip())
