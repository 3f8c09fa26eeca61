"""rows that verify + rows that were trained on -> an error that lists what stands in both: for rows that a build fetches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES = {"rows": "rows of each evaluation", "trained": "rows of each training"}
PRELOAD = ()
FLUSH = False


class Params(Strict):
    pass


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    """`progress.settings["names"]` says what each evaluation's rows are called."""
    from buildsys.errors import BuildError
    from buildsys.examples import rows

    progress("looking for rows that were trained on")
    known = {rows.asked(row) for place in inputs["trained"] for row in rows.read(place)}
    found = []
    for name, place in zip(progress.settings["names"], inputs["rows"], strict=True):
        both = [at for at, row in enumerate(rows.read(place), 1) if rows.asked(row) in known]
        if both:
            found.append((name, f"row{'s' * (len(both) > 1)} {rows.numbered(both)}"))
    if found:
        raise BuildError("rows of a verification were trained on", found, rows.TRAINED)
    (out / "apart.json").write_text("{}\n")
    return {"trained": len(known)}
