"""A minute of faults, and a store that is wrong on purpose, which they must find."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from buildsys import files
from buildsys.marks import without_mark
from tests import faults


@pytest.mark.slow
def test_after_a_fault_anywhere_the_next_build_is_right_and_nothing_is_lost() -> None:
    """Every third operation of a small build with every kind of fault: `make faults` runs all, and random graphs."""
    first, second = faults.small()
    number = faults.operations(first, second)
    assert number > 40
    chosen = [
        faults.Case(first, second, at, kind) for at in range(number) for kind in faults.KINDS if (at + faults.KINDS.index(kind)) % 3 == 0
    ]
    found = faults.run(iter(chosen), 600, lambda text: None)
    assert found["problems"] == []
    assert found["faults"] == len(chosen)
    assert found["ends"]["crashed"] > len(chosen) // 3  # the faults do happen
    assert found["ends"]["failed in our words"] > 10


def in_place(path: Path | str, data: bytes, *, flush: bool) -> None:
    """What a store must not do: a file under its own name before it is whole."""
    handle = files.opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    while data:
        data = data[files.disk.write(handle, data) :]
    os.close(handle)


def believed(self: Any, digest: str, size: int, observer: Any) -> bool:
    """What a store must not do: an object is whole because it is there."""
    return observer.size(self.place(digest)) is not None


@pytest.mark.slow
@pytest.mark.parametrize(("mistake", "kind"), [("records", "torn"), ("objects", "power cut")])
def test_a_store_that_is_wrong_on_purpose_is_found_out(mistake: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = faults.small()
    number = faults.operations(first, second)
    if mistake == "records":
        monkeypatch.setattr(files, "write_whole", in_place)
        monkeypatch.setattr(
            "buildsys.store.records.Records._content", lambda self, key, path: (without_mark(files.read(path)) or b"{").decode()
        )
    else:
        monkeypatch.setattr("buildsys.store.objects.Objects.intact", believed)
        monkeypatch.setattr("buildsys.store.cache.Cache._after_unclean_stop", lambda self, key, artifact, observer: (artifact, ""))
    assert any(list(faults.problems(faults.Case(first, second, at, kind), Counter())) for at in range(number))
