"""Long chains, wide graphs and long files of rows: the first `build status`, the whole process."""

import tempfile
from pathlib import Path

from bench import projects
from bench.table import Row, at_most, command

SIZES = (300, 1_000, 3_000)
EXAMPLES = 100_000
SECONDS_AT_MOST = 5
GROWTH_AT_MOST = 1.2  # of the time a target takes, from one size to the next


def chain_of_merges(number: int) -> list[str]:
    """Each merge on the one before it."""
    return [
        f'[merged.m{position}]\nbase = "{f"merged-m{position - 1}" if position > 1 else "b"}"\nunverified = true\nvectors = {{ s0 = 1.0 }}'
        for position in range(1, number + 1)
    ]


def chain_of_sums(number: int) -> list[str]:
    """Each vector the double of the one before it."""
    return [f"[vector.s{position}]\nsum = {{ s{position - 1} = 2.0 }}" for position in range(1, number + 1)]


def wide_merge(number: int) -> list[str]:
    """One merge of that many vectors, each a multiple of one."""
    vectors = [f"[vector.s{position}]\nsum = {{ s0 = {position}.0 }}" for position in range(1, number + 1)]
    members = ", ".join(f"s{position} = 1.0" for position in range(1, number + 1))
    return [*vectors, f"[merged.m]\nunverified = true\nvectors = {{ {members} }}"]


def merges_of_one(number: int) -> list[str]:
    """That many merges of one vector."""
    return [f"[merged.m{position}]\nunverified = true\nvectors = {{ s0 = {position}.0 }}" for position in range(1, number + 1)]


KINDS = {
    "merges in a chain": chain_of_merges,
    "sums in a chain": chain_of_sums,
    "vectors in one merge": wide_merge,
    "merges of one vector": merges_of_one,
}


def make(root: Path, tables: list[str]) -> None:
    """Write a project with a base `b`, a vector `s0` and these tables."""
    projects.checkpoint(root / "m" / "b", 0)
    projects.checkpoint(root / "m" / "s0", 1)
    head = '[build]\ndefault = ["*"]\n[base.b]\npath = "m/b"\n[vector.s0]\npath = "m/s0"\n'
    (root / "Buildfile.toml").write_text(head + "\n".join(tables) + "\n")


def measure() -> list[Row]:
    rows = []
    for kind, tables in KINDS.items():
        seconds = []
        for number in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                make(Path(folder), tables(number))
                seconds.append(projects.seconds([*projects.build_command(), "status"], Path(folder), 3))
        rows += [Row(f"status, {number:,} {kind}", taken, "s") for number, taken in zip(SIZES[:-1], seconds, strict=False)]
        rows += [at_most(f"status, {SIZES[-1]:,} {kind}", seconds[-1], SECONDS_AT_MOST, "s")]
        for small, large in ((0, 1), (1, 2)):
            growth = seconds[large] / SIZES[large] / (seconds[small] / SIZES[small])
            rows.append(at_most(f"a target, {SIZES[large]:,} ÷ {SIZES[small]:,} {kind}", growth, GROWTH_AT_MOST, "×"))
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), ['[behavior.x]\nbase = "b"\nexamples = "rows.jsonl"'])
        lines = [f'{{"prompt": "question {row} of many", "chosen": "answer {row}", "rejected": "none"}}\n' for row in range(EXAMPLES)]
        (Path(folder) / "rows.jsonl").write_text("".join(lines))
        taken = projects.seconds([*projects.build_command(), "status"], Path(folder), 1)
    return [*rows, at_most(f"first status, {EXAMPLES:,} rows", taken, SECONDS_AT_MOST, "s")]


if __name__ == "__main__":
    command(measure, "Chains and wide graphs")
