"""Nothing to do: the whole process, against stock doit on the same graph in the same run."""

import subprocess
import sys
import tempfile
from pathlib import Path

from bench import projects
from bench.table import Row, at_most, command

TARGETS_MS = {61: 80, 10_000: 400}


def measure() -> list[Row]:
    rows = []
    for targets, limit in TARGETS_MS.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            projects.make(root, targets)
            subprocess.run([*projects.build_command(), "-q"], cwd=root, check=True)
            ours = projects.seconds(projects.build_command(), root, 15)
            projects.dodo(root, targets)
            doit = [str(Path(sys.executable).with_name("doit"))]
            projects.seconds(doit, root, 1)
            theirs = projects.seconds(doit, root, 5)
        rows += [
            at_most(f"nothing to do, {targets:,} targets", ours * 1000, limit, "ms"),
            Row(f"stock doit, {targets:,} targets", theirs * 1000, "ms"),
            at_most(f"ours ÷ doit's, {targets:,} targets", ours / theirs, 1, "×"),
        ]
    bare = projects.seconds([sys.executable, "-c", "pass"], Path.cwd(), 15)
    return [*rows, Row("bare python", bare * 1000, "ms")]


if __name__ == "__main__":
    command(measure, "Nothing to do")
