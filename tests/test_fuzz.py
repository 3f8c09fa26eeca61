"""Parsers of bytes from outside: nothing but our errors, over the corpus and over documents with something wrong in them."""

import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.fuzz.documents import DOCUMENTS

QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_input_that_was_a_fault_once_is_an_error_of_ours_or_right(name: str) -> None:
    for data in targets.seeds(name):
        started = time.process_time()
        targets.run(name, data)
        assert time.process_time() - started < 5  # against inputs that never end, not for speed


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_with_something_wrong_is_an_error_of_ours_or_right(name: str) -> None:
    @QUICK
    @given(DOCUMENTS[name])
    def holds(data: bytes) -> None:
        targets.run(name, data)

    holds()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_any_bytes_are_an_error_of_ours_or_right(name: str) -> None:
    @QUICK
    @given(st.binary(max_size=200))
    def holds(data: bytes) -> None:
        targets.run(name, data)

    holds()


def test_the_driver_counts_its_inputs_and_names_its_seed() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "1", "--seed", "7", "--target", "index", "--workers", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.startswith("seed 7, 1 workers, 1 s, targets: index\nindex ")
    assert "0 faults" in ran.stdout
