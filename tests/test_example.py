"""The example project from an empty cache: every figure of `bench/example.py` but its time."""

import pytest

from bench import example

pytestmark = pytest.mark.slow


def test_what_the_example_builds_shows_the_effect() -> None:
    missed = [row for row in example.measure() if row.ok is False and row.unit != "min"]
    assert missed == []
