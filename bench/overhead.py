"""What a built target costs beyond its rule's own work, once libraries are loaded: staging, worker, commit, output, history."""

import json
import subprocess
import tempfile
from pathlib import Path

from bench import projects
from bench.table import Row, at_most, command

TARGETS = 200


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        projects.make(root, TARGETS)
        started = subprocess.run(
            [*projects.build_command(), "-j", "1", "--json", "-q"], cwd=root, check=True, capture_output=True, text=True
        )
        targets = json.loads(started.stdout)["targets"]
        # every vector is two actions (model, extract); the rules themselves read one header each
        seconds = sorted(one["seconds"] for name, one in targets.items() if name != "base-b")
    middle, slowest = seconds[len(seconds) // 2], seconds[-1 - len(seconds) // 50]
    return [
        at_most("overhead of a target of two actions, median", middle * 1000, 100, "ms"),
        at_most("overhead of a target of two actions, 98th percentile", slowest * 1000, 100, "ms"),
    ]


if __name__ == "__main__":
    command(measure, "Overhead of a built target")
