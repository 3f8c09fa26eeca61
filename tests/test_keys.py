"""Keys, pinned in bytes, and explanations that cannot disagree with them."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildsys.action import Action, canonical_bytes, changes, digest_of_files

MERGE = Action(
    "merge",
    1,
    {"method": "ties", "coefficients": [1.0, -0.3], "options": {"density": 0.2}},
    {"base": "b" * 64, "vectors": ["1" * 64, "2" * 64]},
)


def test_key_is_pinned() -> None:
    """If this fails, every cached artifact of every user is gone. Change FORMAT only on purpose."""
    assert canonical_bytes(MERGE.document()) == (
        b'{"format":1,"inputs":{"base":"' + b"b" * 64 + b'","vectors":["' + b"1" * 64 + b'","' + b"2" * 64 + b'"]},'
        b'"parameters":{"coefficients":[1,-0.3],"method":"ties","options":{"density":0.2}},"rule":"merge","rule_version":1}'
    )
    assert MERGE.key() == "a89d08a8495fe8e37c9a32acc4048156fbba3249d4ec286592a820fc8b2255e4"


def test_artifact_digest_is_pinned() -> None:
    assert digest_of_files({"b": "2" * 64, "a": "1" * 64}) == "5dabfb038afe97b5797c955df277abe2c3de5e95778b674d074357178da19c60"
    assert digest_of_files({"a": "1" * 64, "b": "2" * 64}) == digest_of_files({"b": "2" * 64, "a": "1" * 64})


def test_key_is_the_same_in_every_process() -> None:
    code = "from tests.test_keys import MERGE; print(MERGE.key())"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."}
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert found == {MERGE.key() + "\n"}


@pytest.mark.parametrize(("left", "right"), [(1, 1.0), (0.0, -0.0), ((1, 2), [1, 2])])
def test_one_value_has_one_spelling(left: object, right: object) -> None:
    assert canonical_bytes(left) == canonical_bytes(right)


@pytest.mark.parametrize(
    ("left", "right"), [(1, True), (1, "1"), (None, "null"), ([1, 2], [2, 1]), (0.1, 0.1000000001), (2**53 + 1, 2.0**53)]
)
def test_different_values_are_spelt_differently(left: object, right: object) -> None:
    assert canonical_bytes(left) != canonical_bytes(right)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"bytes", {1: 2}])
def test_what_has_no_single_spelling_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no canonical form"):
        canonical_bytes(value)


scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=3)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3), max_leaves=8
)


@given(values, values)
def test_an_explanation_is_empty_exactly_when_the_keys_are_equal(left: object, right: object) -> None:
    one, other = (Action("r", 1, {"p": value}, {}) for value in (left, right))
    assert (changes(one.document(), other.document()) == []) == (one.key() == other.key())


def test_entries_are_explained_by_their_names() -> None:
    before = MERGE.document()
    after = Action("merge", 1, {**MERGE.parameters, "coefficients": [0.8, -0.3]}, MERGE.inputs).document()
    labels = {"coefficients": ["listening", "suggesting"], "vectors": ["listening", "suggesting"]}
    assert changes(before, after, labels, labels) == ["coefficient of listening 1 → 0.8"]


def test_a_removed_vector_is_named() -> None:
    after = Action("merge", 1, {**MERGE.parameters, "coefficients": [1.0]}, {"base": "b" * 64, "vectors": ["1" * 64]}).document()
    names = {"coefficients": ["listening", "suggesting"], "vectors": ["listening", "suggesting"]}
    rest = {"coefficients": ["listening"], "vectors": ["listening"]}
    assert changes(MERGE.document(), after, names, rest) == ["vector suggesting removed", "coefficient of suggesting -0.3 removed"]
