"""Laws of the numbers behind a verdict: intervals that cover, searches that keep their budget, blame that falls where it belongs."""

import random

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildsys.evaluation import blame, bracket, composed, tuning
from buildsys.evaluation.bracket import Point
from buildsys.evaluation.intervals import Ratio, difference, estimated, level, rows_needed
from buildsys.evaluation.metrics import Metric


def share(values: list[int]) -> Ratio:
    return Ratio.of([float(one) for one in values], share=True)


@pytest.mark.parametrize("true", [0.05, 0.3, 0.5, 0.9])
def test_an_interval_of_a_share_covers_the_truth_as_often_as_it_says(true: float) -> None:
    generator = numpy.random.default_rng(5)
    covered = 0
    for _ in range(600):
        found = estimated(level, [Ratio.of((generator.random(100) < true).astype(float), share=True)], 0.95, 0)
        covered += found.low <= true <= found.high
    assert covered / 600 > 0.93


@pytest.mark.parametrize("flipping", [0.02, 0.05, 0.2])
def test_rows_that_flip_by_chance_seldom_look_like_a_gain(flipping: float) -> None:
    """As many rows become better as become worse: a gain above zero is an error, and at most one in forty by the interval."""
    generator = random.Random(1)
    passed = 0
    for trial in range(600):
        before = [int(generator.random() < 0.5) for _ in range(60)]
        after = [1 - one if generator.random() < flipping else one for one in before]
        passed += estimated(difference, [share(before), share(after)], 0.95, trial).low > 0
    assert passed / 600 < 0.04


@pytest.mark.parametrize(("moved", "certain"), [(4, False), (5, False), (8, True)])
def test_few_rows_that_all_moved_one_way_are_not_yet_certain(moved: int, certain: bool) -> None:
    before, after = [0] * 60, [1] * moved + [0] * (60 - moved)
    assert (estimated(difference, [share(before), share(after)], 0.95, 0).low > 0) == certain


def test_pairing_makes_the_interval_of_a_difference_narrow() -> None:
    generator = numpy.random.default_rng(0)
    losses = generator.normal(3, 1, 200)
    both = estimated(difference, [Ratio.of(losses), Ratio.of(losses + 0.1)], 0.95, 0)
    assert both.low == pytest.approx(0.1)
    assert both.high == pytest.approx(0.1)


def test_a_figure_is_the_same_in_every_run() -> None:
    drawn = [share([1, 0, 1, 1, 0, 0, 1, 0, 1, 1])]
    assert estimated(level, drawn, 0.95, 7) == estimated(level, drawn, 0.95, 7)
    assert estimated(level, drawn, 0.95, 0).json() == {
        "value": 0.6,
        "low": pytest.approx(0.2857, abs=1e-4),
        "high": pytest.approx(0.7857, abs=1e-4),
        "n": 10,
    }


def test_rows_needed_grow_with_the_square_of_what_is_missing() -> None:
    found = estimated(level, [share([1] * 12 + [0] * 8)], 0.95, 0)
    assert rows_needed(found, found.value) is None
    few, many = rows_needed(found, 0.3), rows_needed(found, 0.55)
    assert few is not None
    assert many is not None
    assert few < 20 < many


@given(peak=st.floats(0.05, 3), wall=st.floats(0.05, 3), budget=st.integers(3, 14), start=st.floats(0.05, 0.5))
@settings(max_examples=200, deadline=None)
def test_a_search_asks_once_within_its_budget_and_finds_what_is_near_the_best(peak: float, wall: float, budget: int, start: float) -> None:
    asked: list[float] = []

    def measure(at: float) -> Point:
        asked.append(at)
        return Point(1 - (at - peak) ** 2, at <= wall)

    tried = bracket.search(measure, start, 4.0, budget)
    assert sorted(asked) == tried
    assert len(set(tried)) == len(tried) <= budget
    assert all(0 < at <= 4 for at in tried)
    held = [at for at in tried if at <= wall]
    if budget >= 12 and wall > start / 8:
        best = max(held, key=lambda at: 1 - (at - peak) ** 2)
        goal = min(peak, wall)
        assert goal < start / 8 or best == pytest.approx(goal, rel=0.35)


@given(limits=st.lists(st.floats(0.3, 3), min_size=1, max_size=4), budget=st.integers(2, 40))
@settings(max_examples=100, deadline=None)
def test_a_tuning_keeps_its_budget_and_never_ends_worse_than_it_began(limits: list[float], budget: int) -> None:
    start = tuple(1.0 for _ in limits)
    asked: dict[tuple[float, ...], tuning.Outcome] = {}

    def measure(at: tuple[float, ...]) -> tuning.Outcome:
        assert at not in asked
        asked[at] = tuning.Outcome(
            [min(1.0, x / limit) for x, limit in zip(at, limits, strict=True)],
            [x / limit for x, limit in zip(at, limits, strict=True)],
            [sum(at) / 4],
        )
        return asked[at]

    best = tuning.tune(measure, start, budget)
    assert len(asked) <= budget
    assert best in asked
    assert asked[best].merit == max(outcome.merit for outcome in asked.values())
    assert all(x >= 0 for x in best)


def test_a_tuning_gives_up_gain_only_for_a_limit() -> None:
    found = tuning.tune(lambda at: tuning.Outcome([min(1.0, x) for x in at], list(at), [sum(at) / 1.5]), (1.0, 1.0), 60)
    assert 1.3 < sum(found) <= 1.5


def numbers(margins: list[float]) -> dict:
    return {
        "chosen": margins,
        "chosen_tokens": [1.0] * len(margins),
        "rejected": [0.0] * len(margins),
        "rejected_tokens": [1.0] * len(margins),
    }


def evaluation(*runs: list[float]) -> dict:
    return {"numbers": [numbers(run) for run in runs], "half": [0] * len(runs[0]), "expected": []}


def test_blame_falls_on_the_vector_without_which_the_metric_is_better() -> None:
    helps, spoils, idle = 0, 1, 2

    def measure(without: frozenset[int]) -> dict:
        level = (0 if helps in without else 50) - (0 if spoils in without or helps in without else 30)
        return numbers([1.0] * level + [-1.0] * (100 - level))

    found = blame.blame(measure, 3, Metric("preference"), False, evaluation([0.0] * 100), 0.95, 0)
    assert [row["vector"] for row in found["vectors"] if row["significant"]] == [spoils]
    assert (found["base"], found["merged"]) == (0.0, 0.2)
    assert found["vectors"][0]["cost"] == pytest.approx(0.3)
    assert found["vectors"][-1]["vector"] == helps
    assert next(row for row in found["pairs"] if row["vectors"] == [spoils, idle])["extra"] == pytest.approx(0)


def test_a_pair_that_is_redundant_alone_is_found_together() -> None:
    def measure(without: frozenset[int]) -> dict:
        level = 80 if {1, 2} <= without else 20
        return numbers([1.0] * level + [-1.0] * (100 - level))

    found = blame.blame(measure, 3, Metric("preference"), False, evaluation([0.0] * 100), 0.95, 0)
    assert not [row for row in found["vectors"] if row["significant"]]
    assert found["pairs"][0]["vectors"] == [1, 2]
    assert found["pairs"][0]["extra"] == pytest.approx(0.6)


def test_what_a_merge_keeps_is_a_share_of_what_the_vector_alone_gains() -> None:
    base, alone, merged = [-1.0] * 100, [1.0] * 80 + [-1.0] * 20, [1.0] * 60 + [-1.0] * 40
    one = composed.Composed("x", Metric("preference"), evaluation(base, alone), evaluation(merged))
    found = composed.check([one], [], 0.1, 0.95, 0)
    assert found["behaviours"][0]["kept"] == pytest.approx(0.75)
    assert not found["passed"]
    assert found["reason"].startswith("'x' keeps 75% of its gain, by the interval ")
    assert composed.check([one], [], None, 0.95, 0)["passed"]


def test_a_vector_that_gains_nothing_alone_has_nothing_to_keep() -> None:
    one = composed.Composed("x", Metric("preference"), evaluation([1.0] * 50, [1.0] * 50), evaluation([-1.0] * 50))
    found = composed.check([one], [], 0.1, 0.95, 0)
    assert found["passed"]
    assert not found["behaviours"][0]["judged"]
