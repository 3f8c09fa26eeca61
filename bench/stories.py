"""The project of real behaviours on a real model: its Buildfile in a folder of its own, and plain stories beside it as rows to keep."""

import json
import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
REAL = Path(os.environ.get("BUILDSYS_REAL", ROOT.parent / "shared" / "real"))
ROWS = {"british": "british-english", "pirate": "pirate-talk", "rename": "rename-lily"}
PLACE = "../../../shared/real"  # as the Buildfile spells it


def buildfile(root: Path, real: Path = REAL, seed: int = 0) -> str:
    """The text of the Buildfile, its paths made right; the stories that each behaviour must not change are written beside it.

    They are the unedited sides of the *other* behaviours' training rows: no row of a verification, none of the control set.
    """
    text = (ROOT / "tests" / "real" / "Buildfile.toml").read_text().replace(PLACE, str(real)).replace("seed    = 0", f"seed    = {seed}")
    for name, file in ROWS.items():
        lines = (real / "behaviors" / f"{file}.train.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        (root / f"plain-{name}.jsonl").write_text("".join(json.dumps({"text": row["prompt"] + row["rejected"]}) + "\n" for row in rows))
    return text
