"""rows that judge + rows that they may not be among -> an error that lists what stands in both: for rows that a build fetches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES = {"rows": "rows of each evaluation", "others": "rows of trainings, or of a search"}
PRELOAD = ()
FLUSH = False
_SHOWN = 40  # characters of a row


class Params(Strict):
    pass


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    """`progress.settings` has the names of `rows` and `others`, and what to say of rows in both: `headline`, `hint`."""
    from buildsys.errors import BuildError
    from buildsys.examples import rows

    progress("looking for rows that were seen before")
    settings = progress.settings
    others = [(name, _asked(place)) for name, place in zip(settings["others"], inputs["others"], strict=True)]
    found = []
    for name, place in zip(settings["rows"], inputs["rows"], strict=True):
        given = rows.read(place)
        for other, known in others:
            both = [at for at, row in enumerate(given, 1) if rows.asked(row) in known]
            if both:
                which = f"row{'s' * (len(both) > 1)} {rows.numbered(both)}"
                found.append((name, which, f"in {other}", rows.beginning(given[both[0] - 1], _SHOWN)))
    if found:
        raise BuildError(settings["headline"], found, settings["hint"])
    (out / "apart.json").write_text("{}\n")
    return {"rows_compared_with": sum(len(known) for _, known in others)}


def _asked(place: Path) -> set[str]:
    from buildsys.examples import rows

    return {rows.asked(row) for row in rows.read(place)}
