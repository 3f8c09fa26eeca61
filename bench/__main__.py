"""All benchmarks, one after another."""

import importlib

from bench.table import Row, command

NAMES = ("noop", "edit", "overhead", "chains", "optimizer", "example", "warm_start", "real", "parity", "merge", "verify")


def measure() -> list[Row]:
    return [row for name in NAMES for row in importlib.import_module(f"bench.{name}").measure()]


if __name__ == "__main__":
    command(measure, "All benchmarks")
