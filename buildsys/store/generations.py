"""`cache/history.jsonl`: one line each time a target came out new. Append-only; appends and reads, interprets nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Generation:
    """One result of a target.

    keys    the key of each of its steps
    labels  for each step, the names of the entries of its list inputs: what the recipe called them then
    """

    time: str
    target: str
    digest: str
    keys: dict[str, str]
    labels: dict[str, dict[str, list[str]]]


def append(cache: Path, target: str, digest: str, keys: dict[str, str], labels: dict[str, dict[str, list[str]]]) -> None:
    """One write of one line: two builds at once cannot mix theirs."""
    line = json.dumps(asdict(Generation(datetime.now(UTC).isoformat(timespec="seconds"), target, digest, keys, labels)))
    handle = os.open(cache / "history.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        end = os.fstat(handle).st_size
        torn = end and os.pread(handle, 1, end - 1) != b"\n"  # a crash cut the last line off
        os.write(handle, b"\n" * bool(torn) + line.encode() + b"\n")
    finally:
        os.close(handle)


def latest(cache: Path, targets: Collection[str]) -> dict[str, Generation]:
    """The last generation of each of these targets. A line that was cut off by a crash is passed over."""
    found: dict[str, Generation] = {}
    try:
        lines = (cache / "history.jsonl").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        if line.partition('"target": "')[2].partition('"')[0] not in targets:  # before the costly part
            continue
        try:
            generation = Generation(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[generation.target] = generation
    return found
