"""Projects of any number of targets whose rules need no torch: one base, and vectors by reference, each from a folder of its own."""

import os
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_CONFIG = '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}'


def make(root: Path, targets: int) -> None:
    """Write Buildfile.toml and `targets` checkpoint folders: one base, the others vectors."""
    lines = ["[build]", 'default = ["*"]', "[base.b]", 'path = "m/b"']
    checkpoint(root / "m" / "b", 0)
    for number in range(1, targets):
        lines += [f"[vector.v{number}]", f'path = "m/v{number}"']
        checkpoint(root / "m" / f"v{number}", number)
    (root / "Buildfile.toml").write_text("\n".join(lines) + "\n")


def checkpoint(folder: Path, value: float) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  '
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(_CONFIG)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", value))


def dodo(root: Path, targets: int) -> None:
    """The same graph for stock doit: a task a target, with the files it reads, the base before the vectors, and an output file."""
    (root / "dodo.py").write_text(
        f"""
def task_target():
    for number in range({targets}):
        name = f"v{{number}}" if number else "b"
        files = [f"m/{{name}}/config.json", f"m/{{name}}/model.safetensors"]
        yield {{
            "name": name,
            "file_dep": files + (["made/b"] if number else []),
            "targets": [f"made/{{name}}"],
            "actions": [f"echo {{name}} > made/{{name}}"],
        }}
"""
    )
    (root / "made").mkdir(exist_ok=True)


def build_command() -> list[str]:
    return [str(Path(sys.executable).with_name("build"))]


def seconds(command: Sequence[str], folder: Path, repeats: int) -> float:
    """Median wall time of a whole process, its output thrown away."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
        found.append(time.perf_counter() - started)
    return statistics.median(found)
