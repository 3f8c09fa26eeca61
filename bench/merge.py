"""Merges of real shapes: seconds, memory, and how soon an error comes; with --mergekit beside mergekit in the same run.

python -m bench.merge [--mergekit PATH/TO/mergekit-yaml] [--folder DIR] [--only PART …] [--json]

Every time is that of a whole process, with the files in the page cache; nothing is flushed to disk, as for every merge. What a timed
run wrote is removed before the next one, ours, mergekit's and the copy alike: on a virtual machine, memory that was never touched costs
more than the merge.
"""

import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench import projects, shapes
from bench.parity import run_mergekit
from bench.table import Row, at_least, at_most, parser, show

HALF_B, SMALL = "qwen", "llama"
MODELS = 4
NAMES = ("base", *(f"m{number}" for number in range(1, 1 + MODELS)))
REPEATS = 3
ELEMENTWISE = ("linear", "task_arithmetic", "ties", "dare", "della", "breadcrumbs", "sce")
MEMORY_MIB = 1536
NOTED_S = {"ties": 175, "dare": 70, "task_arithmetic": 17}  # mergekit 0.1.5, where it was first measured
DARE = {"method": "dare", "density": 0.5, "elect": "mass", "mean": "coefficient"}
TIES = {"method": "ties", "density": 0.2}
THEIRS: dict[str, tuple[str, dict[str, float], dict[str, Any]]] = {  # method, for each model, for all
    "ties": ("ties", {"density": 0.2}, {"normalize": True}),
    "dare": ("dare_ties", {"density": 0.5}, {"normalize": True}),
    "task_arithmetic": ("task_arithmetic", {}, {}),
}


@dataclass(frozen=True)
class Bench:
    """models    the folder of all shapes
    scratch   an empty folder
    mergekit  its `mergekit-yaml`; None: it is not run
    """

    models: Path
    scratch: Path
    mergekit: str | None

    # parts

    def reading(self) -> list[Row]:
        return [Row("reading five inputs and copying one, 0.5B", self.copying(), "s")]

    def ties(self) -> list[Row]:
        return self.changed(TIES, 20, 40)

    def fresh(self) -> list[Row]:
        """The same from an empty cache: what the vectors need is done as well."""
        seconds = []
        for number in range(REPEATS):
            with self.project(f"fresh{number}", HALF_B, TIES) as project:
                seconds.append(project.build())
        return self.against("ties, from five folders and an empty cache", "ties", statistics.median(seconds), 12)

    def dare(self) -> list[Row]:
        return self.changed(DARE, 15)

    def task_arithmetic(self) -> list[Row]:
        return self.changed({"method": "task_arithmetic"}, 6, most=2)

    def memory(self) -> list[Row]:
        """Anonymous pages, summed over all processes of the build, at their peak."""
        rows = []
        for shape, methods in ((SMALL, ELEMENTWISE), (HALF_B, ("ties",))):
            for method in methods:
                with self.project("warm", SMALL, {"method": method}, 2) as project:
                    project.build()  # compiles what was never compiled here
                found = {}
                for count in (2, 16):
                    with self.project("memory", shape, {"method": method}, count) as project:
                        found[count] = _peak_anonymous([*projects.build_command(), "-q", "merged-x"], project.root) / 2**20
                what = f"peak memory, {method}, {_SAID[shape]}"
                rows.append(at_most(f"{what}, 2 vectors", found[2], MEMORY_MIB, "MiB"))
                rows.append(at_most(f"{what}, 16 vectors", found[16], min(MEMORY_MIB, round(1.25 * found[2] + 64)), "MiB"))
        return rows

    def spectral(self) -> list[Row]:
        rows = []
        for method in ("iso_c", "tsv_m"):
            with self.project(method, SMALL, {"method": method}) as project:
                rows.append(at_most(f"{method}, {_SAID[SMALL]}, {MODELS} vectors", project.build(), 60, "s"))
        return rows

    def refusal(self) -> list[Row]:
        """A model with one tensor of another shape, of which nothing but the header has to be read."""
        _misfit(self.scratch / "misfit", shapes.QWEN2_HALF_B)
        seconds = []
        for number in range(REPEATS):
            with self.project(f"refused{number}", HALF_B, TIES, last=self.scratch / "misfit") as project:
                project.cached()
                seconds.append(_until([*projects.build_command(), "merged-x"], project.root, b"does not match"))
        return [at_most("first byte of an error about mismatched tensors, 0.5B", statistics.median(seconds), 1, "s")]

    def first(self) -> list[Row]:
        """What compiling costs, once on a machine and for each version."""
        found = []
        compiled = self.scratch / "compiled"
        compiled.mkdir()
        for number in range(2):
            with self.project(f"first{number}", SMALL, TIES) as project:
                found.append(project.build({"XDG_CACHE_HOME": str(compiled)}))
        what = f"ties, {_SAID[SMALL]}, from an empty cache"
        return [Row(f"{what}, first use on a machine", found[0], "s"), Row(f"{what}, second use", found[1], "s")]

    # what they are made of

    def changed(self, recipe: dict[str, Any], times: float, aim: float | None = None, most: float | None = None) -> list[Row]:
        """A merge of 0.5B after one coefficient has changed.

        times  how much faster than mergekit; aim: how much it could be
        most   how often the time of reading and copying it may take
        """
        method = recipe["method"]
        seconds = []
        with self.project(method, HALF_B, recipe) as project:
            project.build()
            for coefficient in (0.4, 0.6, 0.7)[:REPEATS]:
                project.write(coefficient)
                project.make_room()
                seconds.append(project.build())
        ours = statistics.median(seconds)
        options = "".join(f", {key} {value:g}" if isinstance(value, float) else "" for key, value in recipe.items())
        what = f"{method}{options}{', with election' if 'elect' in recipe else ''}, one coefficient changed"
        rows = self.against(what, method, ours, times, aim)
        ratio, of = ours / self.copying(), f"{what}: ours ÷ reading and copying"
        return [*rows, Row(of, ratio, "×", "aim 2.2 ×" if aim else "") if most is None else at_most(of, ratio, most, "×")]

    def against(self, what: str, method: str, ours: float, times: float, aim: float | None = None) -> list[Row]:
        target = f"≥ {times:g} ×" + (f", aim {aim:g} ×" if aim else "")
        rows = [Row(what, ours, "s")]
        if self.mergekit is None:
            noted = NOTED_S[method]
            return [*rows, Row(f"{what}: mergekit not run; noted {noted} s ÷ {times:g}", noted / times, "s")]
        theirs, resident = self.theirs(method)
        rows += [Row(f"{what}: mergekit's, one run", theirs, "s"), Row(f"{what}: mergekit's peak, resident", resident / 2**20, "MiB")]
        ratio = at_least(f"{what}: mergekit's ÷ ours", theirs / ours, times, "×")
        return [*rows, Row(ratio.what, ratio.value, ratio.unit, target, ratio.ok)]

    @cache  # noqa: B019  one a run
    def theirs(self, method: str) -> tuple[float, int]:
        """mergekit's (seconds, largest resident set in bytes)."""
        assert self.mergekit is not None
        named, each, parameters = THEIRS[method]
        listed = [
            {"model": str(self.models / HALF_B / f"m{number}"), "parameters": {"weight": 0.5, **each}} for number in range(1, 1 + MODELS)
        ]
        config = {"merge_method": named, "base_model": str(self.models / HALF_B / "base"), "models": listed, "dtype": "bfloat16"}
        out = self.scratch / "theirs"
        _cached([self.models / HALF_B / name for name in NAMES])
        started = time.perf_counter()
        resident = run_mergekit(self.mergekit, config | {"parameters": parameters}, out)
        seconds = time.perf_counter() - started
        shutil.rmtree(out)
        return seconds, resident

    @cache  # noqa: B019
    def copying(self) -> float:
        """Seconds to read the five models, and one of them once more while it is written."""
        files = [self.models / HALF_B / name / "model.safetensors" for name in NAMES]
        buffer = memoryview(bytearray(1 << 20))
        copy = self.scratch / "copy"
        seconds = []
        _cached([file.parent for file in files])
        for _ in range(REPEATS):
            started = time.perf_counter()
            for file in files:
                _read(file, buffer, lambda part: None)
            with open(copy, "wb", buffering=0) as out:
                _read(files[0], buffer, out.write)
            seconds.append(time.perf_counter() - started)
            copy.unlink()
        return statistics.median(seconds)

    def project(self, name: str, shape: str, recipe: dict[str, Any], count: int = MODELS, last: Path | None = None) -> "Project":
        folder = self.models / shape
        vectors = [folder / f"m{number % MODELS + 1}" for number in range(count)]
        return Project(self.scratch / name, folder / "base", [*vectors[:-1], last or vectors[-1]], recipe)


_SAID = {HALF_B: "0.5B", SMALL: "134M"}


@dataclass(frozen=True)
class Project:
    """A project folder with merged-x, removed with all that was built in it."""

    root: Path
    base: Path
    vectors: Sequence[Path]
    recipe: dict[str, Any]

    def __enter__(self) -> "Project":
        self.root.mkdir()
        self.write(0.5)
        return self

    def __exit__(self, *failure: object) -> None:
        shutil.rmtree(self.root)

    def write(self, first: float) -> None:
        """The Buildfile, with the first vector's coefficient; the others have 0.5."""
        lines = ["[base.b]", f'path = "{self.base}"']
        for number, vector in enumerate(self.vectors, 1):
            lines += [f"[vector.v{number}]", f'path = "{vector}"']
        lines += ["[merged.x]", "unverified = true", *(f"{key} = {json.dumps(value)}" for key, value in self.recipe.items())]
        coefficients = [first, *[0.5] * (len(self.vectors) - 1)]
        listed = ", ".join(f"v{number} = {coefficient}" for number, coefficient in enumerate(coefficients, 1))
        (self.root / "Buildfile.toml").write_text("\n".join([*lines, f"vectors = {{ {listed} }}"]) + "\n")

    def build(self, environment: dict[str, str] | None = None) -> float:
        """Seconds of the whole process."""
        self.cached()
        started = time.perf_counter()
        subprocess.run([*projects.build_command(), "-q", "merged-x"], cwd=self.root, check=True, env={**os.environ, **(environment or {})})
        return time.perf_counter() - started

    def cached(self) -> None:
        _cached({self.base, *self.vectors})

    def make_room(self) -> None:
        """Remove the model of the build before, as mergekit's and the copy are removed: then each writes into memory that is at hand."""
        shutil.rmtree(self.root / "cache" / "out" / "merged-x")
        for file in (self.root / "cache" / "objects").glob("*/*"):
            if file.stat().st_size > 1 << 24:
                file.unlink()


def _cached(folders: Collection[Path]) -> None:
    """Bring models into the page cache: a system that is short of memory, or that saves it, may have given it up since they were read."""
    buffer = memoryview(bytearray(1 << 20))
    for folder in folders:
        _read(folder / "model.safetensors", buffer, lambda part: None)


def _read(file: Path, buffer: memoryview, take: Callable[[memoryview], object]) -> None:
    with open(file, "rb", buffering=0) as given:
        while count := given.readinto(buffer):
            take(buffer[:count])


def _peak_anonymous(command: Sequence[str], folder: Path) -> int:
    """The largest sum of anonymous pages over a process and all that descend from it, in bytes. A page that two share counts twice."""
    peak = 0
    with subprocess.Popen(command, cwd=folder) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_anonymous, _family(process.pid))))
            time.sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak


def _family(ancestor: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                status = Path("/proc", entry, "stat").read_text()
            except OSError:  # ended meanwhile
                continue
            parent = int(status.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry))
    found = [ancestor]
    for process in found:
        found += children.get(process, [])
    return found


def _anonymous(process: int) -> int:
    try:
        lines = Path("/proc", str(process), "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:")), 0)


def _misfit(folder: Path, shape: shapes.Shape) -> None:
    """A checkpoint whose last tensor has a row more than the shape says; a sparse file."""
    sides = dict(shape.tensors())
    name = f"model.layers.{shape.layers - 1}.mlp.down_proj.weight"
    sides[name] = (sides[name][0] + 1, *sides[name][1:])
    table, at = {}, 0
    for tensor, (rows, *columns) in sorted(sides.items()):
        size = 2 * rows * (columns[0] if columns else 1)
        table[tensor] = {"dtype": "BF16", "shape": [rows, *columns], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(table).encode()
    folder.mkdir()
    (folder / "config.json").write_text(shape.config())
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)


def _until(command: Sequence[str], folder: Path, wanted: bytes) -> float:
    """Seconds from the start of a command that fails to the first bytes on stderr that hold what is wanted."""
    started = time.perf_counter()
    said, seconds = b"", None
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        while part := os.read(process.stderr.fileno(), 1 << 16):
            said += part
            if seconds is None and wanted in said:
                seconds = time.perf_counter() - started
    if seconds is None or not process.returncode:
        raise RuntimeError(f"expected a refusal, got {process.returncode}: {said.decode(errors='replace')}")
    return seconds


PARTS = ("reading", "ties", "fresh", "dare", "task_arithmetic", "memory", "spectral", "refusal", "first")


def measure(mergekit: str | None = None, folder: Path | None = None, only: Sequence[str] = PARTS) -> list[Row]:
    """folder  of the models, made where they are not there yet; None: a temporary one"""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        models = folder.resolve() if folder else Path(scratch) / "models"
        shapes.make(models / HALF_B, shapes.QWEN2_HALF_B, MODELS)
        shapes.make(models / SMALL, shapes.LLAMA_134M, MODELS)
        bench = Bench(models, Path(scratch), mergekit)
        for part in only:
            print(f"{part} …", file=sys.stderr)
            rows += getattr(bench, part)()
    return rows


if __name__ == "__main__":
    _TITLE = "Merges: base and four models, bfloat16, whole processes"
    _PARSER = parser(_TITLE)
    _PARSER.add_argument("--mergekit", metavar="PATH", help="mergekit-yaml of an environment of its own")
    _PARSER.add_argument("--folder", metavar="DIR", type=Path, help="where the models are, or are to be made and kept")
    _PARSER.add_argument("--only", metavar="PART", nargs="+", choices=PARTS, default=PARTS, help=", ".join(PARTS))
    _GIVEN = _PARSER.parse_args()
    show(measure(_GIVEN.mergekit, _GIVEN.folder, _GIVEN.only), _TITLE, _GIVEN.json)
