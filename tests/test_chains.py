"""Graphs of thousands of targets, long or wide: planned, shown and refused without a limit of depth, in bounded time."""

import time

import pytest

from bench import chains
from tests.conftest import Project

NUMBER = 3_000
SECONDS_AT_MOST = 60  # it takes one to two; squares of the number of targets take minutes


@pytest.mark.parametrize("kind", chains.KINDS)
@pytest.mark.parametrize("arguments", [("-n", "--json"), ("graph", "--json")], ids=["plan", "graph"])
def test_a_graph_of_thousands_of_targets_is_planned_and_shown(project: Project, kind: str, arguments: tuple[str, ...]) -> None:
    chains.make(project.root, chains.KINDS[kind](NUMBER))
    started = time.monotonic()
    ran = project.build(*arguments)
    assert ran.code == 0, ran.stderr
    assert len(ran.json()["targets"]) == NUMBER + (3 if kind == "vectors in one merge" else 2)
    assert time.monotonic() - started < SECONDS_AT_MOST


@pytest.mark.parametrize("kind", ["merges in a chain", "sums in a chain"])
@pytest.mark.slow
@pytest.mark.parametrize("command", ["status", "list", "graph", "why", "show"])
def test_every_command_takes_a_long_chain(project: Project, kind: str, command: str) -> None:
    chains.make(project.root, chains.KINDS[kind](NUMBER))
    last = [f"merged-m{NUMBER}" if kind == "merges in a chain" else f"vector-s{NUMBER}"] if command in ("why", "show") else []
    ran = project.build(command, *last)
    assert "internal error" not in ran.stderr
    assert ran.code == (1 if command == "show" else 0)  # it is not built


def test_a_chain_of_any_order_is_a_chain(project: Project) -> None:
    chains.make(project.root, [*reversed(chains.chain_of_merges(300)), *reversed(chains.chain_of_sums(1500))])
    assert len(project.build("status", "--json").json()["targets"]) == 1802


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["merges", "sums"])
def test_a_circle_of_thousands_is_refused(project: Project, kind: str) -> None:
    tables = chains.chain_of_merges(NUMBER) if kind == "merges" else chains.chain_of_sums(NUMBER)
    name = "m" if kind == "merges" else "s"
    tables[0] = tables[0].replace('"b"', f'"merged-m{NUMBER}"').replace("{ s0 = 2.0 }", f"{{ s{NUMBER} = 1.0 }}")
    chains.make(project.root, tables)
    ran = project.build("status")
    assert (ran.code, ran.stderr.splitlines()[0]) == (2, "error: targets need each other in a circle")
    assert ran.stderr.count(f"-{name}") == NUMBER + 1


def test_a_vector_is_added_to_what_descends_from_its_base_and_to_nothing_else(project: Project) -> None:
    chains.make(project.root, chains.chain_of_merges(5))
    text = (project.root / "Buildfile.toml").read_text()
    taken = '[vector.later]\nbase = "merged-m2"\npath = "m/s0"\n'
    for base, fits in (("merged-m2", True), ("merged-m5", True), ("merged-m1", False), ("b", False), ("merged-side", False)):
        side = '[merged.side]\nbase = "merged-m1"\nunverified = true\nvectors = { s0 = 1.0 }\n'
        merge = f'[merged.x]\nbase = "{base}"\nunverified = true\nvectors = {{ later = 1.0 }}\n'
        project.buildfile(text + taken + side + merge)
        ran = project.build("status")
        assert (ran.code == 0) == fits
        own = "base-b" if base == "b" else base
        assert fits or f"vector 'later' was taken from merged-m2, and this merge is on {own}" in ran.stderr


def test_two_tables_of_one_folder_are_one_base_however_far_below(project: Project) -> None:
    chains.make(project.root, chains.chain_of_merges(3))
    text = (project.root / "Buildfile.toml").read_text()
    other = '[base.same]\npath = "m/b"\n[vector.w]\nbase = "same"\npath = "m/s0"\n'
    merge = '[merged.x]\nbase = "merged-m3"\nunverified = true\nvectors = { w = 1.0 }\n'
    project.buildfile(text.replace("[vector.s0]", '[vector.s0]\nbase = "b"') + other + merge)
    ran = project.build("status")
    assert ran.code == 0, ran.stderr
