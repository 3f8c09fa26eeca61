"""One edit in 10,000 targets: from the command to the first action's start, in rules that load no torch."""

import subprocess
import tempfile
import time
from pathlib import Path

from bench import projects
from bench.table import Row, at_most, command

TARGETS = 10_000
REPEATS = 5


def measure() -> list[Row]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        projects.make(root, TARGETS)
        subprocess.run([*projects.build_command(), "-q"], cwd=root, check=True)
        for repeat in range(REPEATS):
            projects.checkpoint(root / "m" / "v7", -1.0 - repeat)
            started = time.perf_counter()
            build = subprocess.Popen(projects.build_command(), cwd=root, stderr=subprocess.PIPE, text=True)
            assert build.stderr is not None
            line = build.stderr.readline()
            found.append(time.perf_counter() - started)
            assert line == "vector-v7:model: model\n", line
            build.communicate()
    return [at_most(f"one edit in {TARGETS:,} targets until the first action starts", sorted(found)[REPEATS // 2], 2, "s")]


if __name__ == "__main__":
    command(measure, "One edit")
