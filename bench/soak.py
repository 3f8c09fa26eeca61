"""Soak: random edits, builds, kills and second builders for as long as you like; what comes out is compared with plain arithmetic.

python -m bench.soak --seconds 600 [--seed 1]
"""

import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench import projects, table
from bench.table import Row, at_most

VECTORS = 6
MERGES = 3
_HEADER = b'{"w":{"dtype":"F32","shape":[20000],"data_offsets":[0,80000]}}  '  # large enough to be linked into outputs


@dataclass
class State:
    """What the project says: a value for each model, and which vectors a merge takes."""

    models: dict[str, int]
    merges: dict[str, dict[str, int]]

    def buildfile(self) -> str:
        lines = ["[build]", 'default = ["*"]', "[base.b]", 'path = "m/b"']
        for name in self.models:
            lines += [f"[vector.{name}]", f'path = "m/{name}"'] if name != "b" else []
        for name, vectors in self.merges.items():
            taken = ", ".join(f"{vector} = {coefficient / 4}" for vector, coefficient in vectors.items())
            lines += [f"[merged.{name}]", f"vectors = {{ {taken} }}", "unverified = true"]
        return "\n".join(lines) + "\n"

    def expected(self, merge: str) -> float:
        """Whole numbers and quarters: exact in float32."""
        base = self.models["b"]
        return base + sum(coefficient / 4 * (self.models[vector] - base) for vector, coefficient in self.merges[merge].items())


@dataclass
class Soak:
    """A project that is edited, built, killed and looked at."""

    root: Path
    source: random.Random
    state: State
    earlier: list[State] = field(default_factory=list)
    builds: int = 0
    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def write(self, state: State) -> None:
        for name, value in state.models.items():
            if state is not self.state or self._value(name) != value:
                folder = self.root / "m" / name
                projects.checkpoint(folder, 0)
                part = folder / "part"  # whole at once: a user's tool that saves a model does no less
                part.write_bytes(struct.pack("<Q", len(_HEADER)) + _HEADER + struct.pack("<f", value) * 20_000)
                part.replace(folder / "model.safetensors")
        (self.root / "Buildfile.toml").write_text(state.buildfile())
        self.state = state

    def _value(self, name: str) -> float | None:
        place = self.root / "m" / name / "model.safetensors"
        return struct.unpack("<f", place.read_bytes()[-4:])[0] if place.exists() else None

    def edited(self) -> State:
        """The state after one edit."""
        models, merges = dict(self.state.models), {name: dict(vectors) for name, vectors in self.state.merges.items()}
        what = self.source.random()
        if what < 0.4:
            models[self.source.choice(list(models))] = self.source.randrange(-50, 50)
        elif what < 0.8:
            merge = merges[self.source.choice(list(merges))]
            merge[self.source.choice([name for name in models if name != "b"])] = self.source.choice([-4, -2, 1, 2, 3, 4])
        elif self.earlier:
            return self.source.choice(self.earlier)
        return State(models, merges)

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        self.builds += 1
        command = [*projects.build_command(), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.root, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]

    def disturbed(self) -> None:
        """Builds that are killed, interrupted, doubled, or look at outputs that somebody has damaged."""
        builders = [self.started("-q") for _ in range(self.source.choice([1, 1, 2]))]
        what = self.source.random()
        if what < 0.6:
            time.sleep(self.source.random() * 2.0)
            for builder in builders:
                builder.send_signal(self.source.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
                self.kills += 1
        for builder in builders:
            output = builder.communicate(timeout=300)
            if "Traceback" in output[1] or "internal error" in output[1]:
                self.wrong.append(f"said: {output[1][-300:]}")
        if self.source.random() < 0.2:
            shutil.rmtree(self.root / "cache/out", ignore_errors=True)

    def judged(self) -> None:
        """An undisturbed build, and what it leaves."""
        first = self.started("--json")
        found = json.loads(first.communicate(timeout=300)[0] or "{}")
        if found.get("exit") != 0:
            self.wrong.append(f"a build failed: {found}")
            return
        for merge in self.state.merges:
            data = (self.root / f"cache/out/merged-{merge}/model.safetensors").read_bytes()[-80_000:]
            if set(struct.unpack("<20000f", data)) != {self.state.expected(merge)}:
                self.wrong.append(f"{merge} is not what its recipe gives")
        if any(self.state == state for state in self.earlier):
            made = [name for name, one in found["targets"].items() if one["state"] == "built"]
            self.lost += [f"{name} was known, and was made again" for name in made]
        else:
            self.earlier.append(self.state)
        left = [*(self.root / "cache/tmp").iterdir(), *(self.root / "cache/locks").iterdir()]
        self.wrong += [f"left over: {path}" for path in left]


def measure(seconds: float, seed: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = f"{folder}/settings"
        source = random.Random(seed)
        names = ["b", *(f"v{number}" for number in range(VECTORS))]
        merges = {f"m{number}": {f"v{number}": 4, f"v{number + 1}": 2} for number in range(MERGES)}
        soak = Soak(Path(folder) / "project", source, State({}, {}))
        soak.root.mkdir()
        soak.write(State({name: number for number, name in enumerate(names)}, merges))
        soak.judged()
        memory, disk = _peak_mib(), _disk_mib(soak.root)
        begun = said = time.monotonic()
        while time.monotonic() - begun < seconds:
            soak.write(soak.edited())
            for _ in range(source.choice([0, 1, 1, 2])):
                soak.disturbed()
            soak.judged()
            if time.monotonic() - said > 5:
                said = time.monotonic()
                counts = f"{soak.builds} builds, {soak.kills} kills, {len(soak.wrong)} wrong, {len(soak.lost)} lost"
                print(counts, file=sys.stderr, flush=True)
        checked = subprocess.run([*projects.build_command(), "check"], cwd=soak.root, capture_output=True, text=True, check=False)
        if checked.returncode:
            soak.wrong.append(checked.stdout)
        for line in (*soak.wrong, *soak.lost):
            print(line, file=sys.stderr)
        grown = _disk_mib(soak.root) - disk
        return [
            Row("builds", soak.builds, ""),
            Row("kills and interrupts", soak.kills, ""),
            Row("states of the project", len(soak.earlier), ""),
            at_most("wrong", len(soak.wrong), 0, ""),
            at_most("lost", len(soak.lost), 0, ""),
            at_most("peak memory of a build, last ÷ first", _peak_mib() / memory, 1.25, "×"),
            at_most("disk a state of the project, without collection", grown / max(1, len(soak.earlier)), 2, "MiB"),
        ]


def _peak_mib() -> float:
    """The largest process that this one has waited for."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _disk_mib(root: Path) -> float:
    inodes = {(status.st_ino, status.st_blocks) for path in (root / "cache").rglob("*") if (status := path.lstat())}
    return sum(blocks for _, blocks in inodes) * 512 / (1 << 20)


if __name__ == "__main__":
    parser = table.parser("Soak: edits, builds, kills, two builders")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rows = measure(given.seconds, given.seed)
    table.show(rows, f"Soak, seed {given.seed}, {given.seconds:g} s", given.json)
    raise SystemExit(any(row.ok is False for row in rows[3:5]))
