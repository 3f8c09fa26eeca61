"""A data set on the Hub, pinned by its revision -> example rows, all of them or one side of the fixed split."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from buildsys.progress import Progress
from buildsys.rules import Inputs, Strict

VERSION = 1
ROLES: dict[str, str] = {}
PRELOAD = ()
FLUSH = False
FILE = "rows.jsonl"
_FILE_BYTES_MAX = 4_000_000_000


class Params(Strict):
    hub: str
    revision: str
    files: str  # a pattern of the repository's .parquet and .jsonl files, read in the order of their names
    part: Literal["all", "train", "held-out"] = "all"
    shape: Literal["preference"] | None = None  # what the rows have to be


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys import hub, regular
    from buildsys.errors import BuildError
    from buildsys.examples import rows

    progress(f"fetching {params.hub}")
    folder = hub.snapshot("dataset", params.hub, params.revision, [params.files])
    files = sorted(place for place in folder.glob(params.files) if place.suffix in (".jsonl", ".parquet"))
    facts = [("dataset", params.hub), ("revision", params.revision), ("files", params.files)]
    if not files:
        raise BuildError("the data set has no such file", facts, 'name its .parquet or .jsonl files, as in "data/train-*.parquet"')
    found = [row for place in files for row in rows.parse(regular.read(place, _FILE_BYTES_MAX), str(place))]
    picked = rows.part(found, params.part)
    shapes = sorted({rows.shape(row) for row in found})
    if len(shapes) > 1 or (params.shape and shapes != [params.shape]):
        wanted = params.shape or "one of them"
        raise BuildError("the data set's rows do not fit", [*facts, ("shape", ", ".join(shapes)), ("needed", wanted)])
    if not picked:
        raise BuildError(f"the data set has no row left for the {params.part} part", [*facts, ("rows", str(len(found)))])
    (out / FILE).write_bytes(rows.serialised(picked))
    return {"rows": len(picked), "files": [str(place.relative_to(folder)) for place in files]}
