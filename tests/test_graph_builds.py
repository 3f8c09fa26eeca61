"""What is rebuilt and what is not, over graphs of tiny rules, against a clean build and a meaning-only oracle."""

import os
import shutil
import struct
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildsys import plan as planning
from buildsys.errors import UsageError
from buildsys.execute import execute
from buildsys.graph import Step
from buildsys.store.observe import racy
from tests.graphs import Node, Silent, World, correct


@pytest.fixture
def chain(tmp_path: Path) -> World:
    """a.txt → first → second → third, and side from first alone."""
    world = World(tmp_path)
    world.write("a.txt", "hello")
    world.nodes = {
        "first": Node(["a.txt"]),
        "second": Node(["first"], truncate=3),
        "third": Node(["second"], suffix="!"),
        "side": Node(["first"], suffix="?"),
    }
    world.build()
    return world


def test_a_second_build_runs_nothing(chain: World) -> None:
    outcome = chain.build()
    assert chain.ran() == []
    assert outcome.count("fresh") == 4


def test_a_changed_file_rebuilds_what_reads_it(chain: World) -> None:
    chain.write("a.txt", "howdy")
    chain.build()
    assert chain.ran() == ["first", "second", "side", "third"]
    assert chain.texts() == {"first": "howdy", "second": "how", "third": "how!", "side": "howdy?"}


def test_an_identical_result_stops_the_wave(chain: World) -> None:
    chain.write("a.txt", "help!")  # second keeps three characters, and they are the same
    chain.build()
    assert chain.ran() == ["first", "second", "side"]
    assert chain.texts()["third"] == "hel!"


def test_going_back_to_an_earlier_input_runs_nothing(chain: World) -> None:
    chain.write("a.txt", "howdy")
    chain.build()
    chain.write("a.txt", "hello")
    chain.build()
    assert chain.ran() == []
    assert chain.texts()["third"] == "hel!"


def test_a_touched_file_runs_nothing(chain: World) -> None:
    chain.write("a.txt", "hello")
    chain.build()
    assert chain.ran() == []


def test_a_parameter_rebuilds_its_step_and_what_changes_behind_it(chain: World) -> None:
    chain.nodes["second"].truncate = 2
    chain.build()
    assert chain.ran() == ["second", "third"]


def test_a_renamed_target_runs_nothing_and_is_shown_under_its_new_name(chain: World) -> None:
    chain.nodes["renamed"] = chain.nodes.pop("side")
    chain.build()
    assert chain.ran() == []
    assert chain.texts()["renamed"] == "hello?"


def test_reordered_targets_run_nothing(chain: World) -> None:
    chain.nodes = dict(reversed(chain.nodes.items()))
    chain.build()
    assert chain.ran() == []


def test_order_of_a_list_input_changes_the_key(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write("a", "A")
    world.write("b", "B")
    world.nodes = {"both": Node(["a", "b"])}
    world.build()
    world.nodes["both"].parts = ["b", "a"]
    world.build()
    assert world.ran() == ["both"]
    assert world.texts() == {"both": "BA"}


def test_only_what_a_target_needs_is_built(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write("a", "A")
    world.nodes = {"one": Node(["a"]), "two": Node(["one"]), "other": Node(["a"], suffix="o")}
    world.build(["two"])
    assert world.ran() == ["one", "two"]


def test_force_makes_the_named_target_again_and_nothing_else(chain: World) -> None:
    chain.build(["first"], force=True)
    assert chain.ran() == ["first"]


def test_a_missing_object_is_rebuilt_for_who_asks(chain: World) -> None:
    digest = chain.plan().steps["third"].artifact.files["text"][0]  # type: ignore[union-attr]
    chain.cache().objects.path(digest).unlink()
    chain.build(["third"])
    assert chain.ran() == ["third"]


def test_a_missing_object_that_nobody_reads_is_left_alone(chain: World) -> None:
    digest = chain.plan().steps["first"].artifact.files["text"][0]  # type: ignore[union-attr]
    chain.cache().objects.path(digest).unlink()
    chain.build(["third"])
    assert chain.ran() == []
    assert chain.plan(["third"]).steps["first"].state == "absent"


def test_a_damaged_object_is_set_aside_and_rebuilt(chain: World) -> None:
    digest = chain.plan().steps["first"].artifact.files["text"][0]  # type: ignore[union-attr]
    place = chain.cache().objects.path(digest)
    place.chmod(0o644)
    place.write_text("HELLO")
    assert chain.plan(["first"]).targets["first"].reasons == (f"object {digest[:12]} is damaged",)
    chain.build(["first"])
    assert chain.ran() == ["first"]
    assert place.read_text() == "hello"
    assert [file.read_text() for file in (chain.root / "cache" / "damaged").iterdir()] == ["HELLO"]


def test_a_copied_cache_without_timestamps_is_verified_and_used(chain: World) -> None:
    shutil.copytree(chain.root / "cache", chain.root / "copy", copy_function=shutil.copy)
    shutil.rmtree(chain.root / "cache")
    (chain.root / "copy").rename(chain.root / "cache")
    chain.build()
    assert chain.ran() == []


def test_an_edited_output_is_put_right_without_running_anything(chain: World) -> None:
    place = chain.root / "cache" / "out" / "third" / "text"
    place.unlink()
    place.write_text("mine")
    chain.build()
    assert chain.ran() == []
    assert place.read_text() == "hel!"


def test_a_failure_stops_what_needs_it_and_names_it(chain: World) -> None:
    chain.nodes["second"].suffix = "fail"
    outcome = chain.build()
    assert outcome.targets["second"].state == "failed"
    assert str(outcome.targets["second"].error) == "error: asked to fail\n  suffix  fail\nhint: use another suffix"
    assert outcome.targets["third"].state == "skipped"
    assert outcome.exit_code == 1


def test_keep_going_builds_what_does_not_depend_on_the_failure(chain: World) -> None:
    chain.write("a.txt", "howdy")
    chain.nodes["second"].suffix = "fail"
    outcome = chain.build(keep_going=True, jobs=1)
    assert chain.ran() == ["first", "second", "side"]
    assert {name: one.state for name, one in outcome.targets.items()} == {
        "first": "built",
        "second": "failed",
        "third": "skipped",
        "side": "built",
    }


def test_a_worker_that_dies_fails_its_own_target_only(chain: World) -> None:
    chain.nodes["second"].suffix = "die"
    chain.nodes["side"].suffix = "-"
    outcome = chain.build(keep_going=True)
    assert outcome.targets["second"].error.headline == "its worker died"  # type: ignore[union-attr]
    assert outcome.targets["side"].state == "built"


def test_an_input_that_changes_while_it_is_read_fails_its_target(chain: World) -> None:
    chain.nodes["meddler"] = Node(["a.txt"], suffix="meddle")
    outcome = chain.build(["meddler"])
    assert str(outcome.targets["meddler"].error) == (
        f"error: an input changed while it was read\n  input  {chain.root}/a.txt\nhint: build again"
    )
    assert chain.plan(["meddler"]).steps["meddler"].state == "stale"


def test_an_input_that_is_edited_during_a_step_and_put_back_fails_its_target(chain: World) -> None:
    """As by `git stash` and back: what the rule has read in between is nowhere to be seen."""
    chain.nodes["meddler"] = Node(["a.txt"], suffix="restore")
    outcome = chain.build(["meddler"])
    assert (chain.root / "a.txt").read_text() == "hello"
    assert str(outcome.targets["meddler"].error) == (
        f"error: an input changed while it was read\n  input  {chain.root}/a.txt\nhint: build again"
    )
    assert chain.plan(["meddler"]).steps["meddler"].state == "stale"


def test_an_input_that_is_touched_before_its_step_but_holds_what_was_planned_is_built(chain: World) -> None:
    chain.write("a.txt", "howdy")
    cache, graph = chain.cache(), chain.graph()
    observer = cache.observer()
    plan = planning.make(graph, cache, observer, ["first"])
    chain.write("a.txt", "howdy")
    assert execute(plan, cache, observer, Silent(), jobs=1, keep_going=False).count("built") == 1


def test_an_input_that_changes_between_the_plan_and_its_step_fails_its_target(chain: World) -> None:
    chain.write("a.txt", "hullo")
    cache, graph = chain.cache(), chain.graph()
    observer = cache.observer()
    plan = planning.make(graph, cache, observer, ["first"])
    chain.write("a.txt", "later")
    outcome = execute(plan, cache, observer, Silent(), jobs=1, keep_going=False)
    assert outcome.targets["first"].error.headline == "an input changed while it was read"  # type: ignore[union-attr]


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("modified", "changed", "seen", "is_racy"),
    [
        (5.5, 5.5, 5.505, True),  # younger than a step of the file clock
        (5.5, 5.5, 5.6, False),
        (1.5, 5.5, 5.505, True),  # its time of modification was put back
        (1.5, 5.5, 5.6, False),
        (5, 5, 6.5, True),  # a file system of whole seconds
        (5, 5, 7.5, False),
        (1, 5, 6.5, True),  # which keeps what it is told
        (99.5, 5.5, 5.505, True),
        (99.5, 5.5, 5.6, False),  # from the future: the time of change tells
        (99.5, 99.5, 5.6, True),  # the clock itself went back
    ],
)
def test_a_file_is_too_young_by_the_later_of_its_times(modified: float, changed: float, seen: float, is_racy: bool) -> None:
    times = [int(one * SECOND) for one in (modified, changed)]
    signature = struct.pack("<qqqqqQ", 0o100644, 1, *times, 7, 1)
    assert racy(signature, int(seen * SECOND)) == is_racy


def test_a_file_from_the_future_is_hashed_once(chain: World) -> None:
    os.utime(chain.root / "a.txt", (4e9, 4e9))
    time.sleep(0.03)
    chain.plan()
    assert str(chain.root / "a.txt") in (chain.root / "cache/stat.jsonl").read_text()


def test_an_input_from_a_clock_that_was_ahead_is_built_all_the_same(chain: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time of change lies in the future, and would for hours: nobody can set it back but the clock."""
    chain.write("a.txt", "ahead")
    ahead, real = 3600 * SECOND, time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - ahead)
    assert chain.build(["first"]).targets["first"].state == "built"
    assert chain.texts()["first"] == "ahead"


def test_after_the_machine_stopped_unflushed_objects_are_believed_only_once_hashed(chain: World) -> None:
    """A record from another boot, whose object has the right size and timestamp but lost its bytes."""
    step = chain.plan().steps["third"]
    assert step.artifact is not None
    assert step.resolved is not None
    cache = chain.cache()
    key = step.resolved.key
    earlier = replace(step.artifact, boot="an earlier boot")
    cache.records.write(key, earlier, flush=False)
    assert chain.plan(["third"]).steps["third"].state == "fresh"  # its bytes are there, and the record is settled
    assert chain.cache().records.read(key).boot == ""  # type: ignore[union-attr]
    cache.records.write(key, earlier, flush=False)
    place = cache.objects.path(step.artifact.files["text"][0])
    before = place.stat()
    place.chmod(0o644)
    place.write_bytes(b"\0" * before.st_size)
    os.utime(place, ns=(before.st_mtime_ns, before.st_mtime_ns))
    (cache.folder / "stat.jsonl").unlink()
    chain.build(["third"])
    assert chain.ran() == ["third"]
    assert place.read_text() == "hel!"


def test_another_build_that_starts_sweeps_nothing_that_is_in_use(chain: World) -> None:
    cache = chain.cache()
    with cache.workspace() as space:
        (space / "half").write_text("made")
        chain.cache()  # prepares, and sweeps
        assert (space / "half").read_text() == "made"
    (cache.folder / "tmp" / "left-by-a-killed-run").mkdir()
    chain.cache()
    assert not list((cache.folder / "tmp").iterdir())


def test_progress_that_nobody_has_read_yet_belongs_to_its_own_step(tmp_path: Path) -> None:
    """Many quick actions with much to say, on one worker, and a slow listener."""
    world = World(tmp_path)
    world.write("a", "A")
    world.nodes = {f"t{i}": Node(["a"], suffix="talk" * (i + 1)) for i in range(3)}

    class Slow(Silent):
        heard: list[tuple[str, str]] = []

        def progress(self, step: Step, text: str, share: float | None) -> None:
            self.heard.append((step.name, text))
            threading.Event().wait(0.01)

    cache = world.cache()
    observer = cache.observer()
    outcome = execute(planning.make(world.graph(), cache, observer, ["*"]), cache, observer, Slow(), jobs=1, keep_going=False)
    assert outcome.count("built") == 3
    assert Slow.heard
    assert all(text.startswith(f"{name} ") for name, text in Slow.heard)


def test_a_failed_target_is_tried_again(chain: World) -> None:
    chain.nodes["second"].suffix = "fail"
    chain.build()
    chain.build()
    assert chain.ran() == ["second"]


def test_a_cycle_is_refused_with_its_path(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.nodes = {"a": Node(["b"]), "b": Node(["c"]), "c": Node(["a"])}
    with pytest.raises(UsageError) as caught:
        world.graph()
    assert str(caught.value) in {
        f"error: targets need each other in a circle\n  cycle  {path}" for path in ("a → b → c → a", "b → c → a → b", "c → a → b → c")
    }


def test_why_names_what_changed(chain: World) -> None:
    chain.nodes["second"].truncate = 2
    chain.write("a.txt", "howdy")
    plan = chain.plan()
    assert plan.steps["first"].reasons == ("part 1 changed",)
    assert plan.steps["second"].state == "unknown"
    chain.build(["first"])
    assert chain.plan().steps["second"].reasons == ("part 1 changed", "truncate 3 → 2")


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, str], list[dict[str, Node]], list[dict[str, str]]]:
    """A few files, then several versions of an acyclic graph over them and of the files."""
    files = [f"f{i}" for i in range(draw(st.integers(1, 3)))]
    targets = [f"t{i}" for i in range(draw(st.integers(1, 6)))]
    letters = st.text("ab", max_size=3)

    def graph() -> dict[str, Node]:
        nodes = {}
        for position, name in enumerate(targets):
            sources = [*files, *targets[:position]]
            parts = draw(st.lists(st.sampled_from(sources), max_size=3))
            nodes[name] = Node(parts, draw(letters), draw(st.sampled_from([1, 2, 1000])))
        return nodes

    versions = draw(st.integers(2, 4))
    return (
        dict.fromkeys(files, ""),
        [graph() for _ in range(versions)],
        [{name: draw(letters) for name in files} for _ in range(versions)],
    )


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories())
def test_every_incremental_build_equals_a_clean_one_and_runs_only_what_is_new(history: tuple) -> None:
    """The result is that of a build from nothing; a step runs exactly when its rule never saw these very inputs before."""
    _, graphs, contents = history
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        seen: set[tuple] = set()
        for nodes, files in zip(graphs, contents, strict=True):
            world.nodes = nodes
            for name, text in files.items():
                world.write(name, text)
            expected = correct(nodes, files)
            known = {**expected, **files}
            # one entry for each distinct action: two targets with the same one share its run
            actions = {
                name: (tuple(known[part] for part in node.parts), tuple(part in nodes for part in node.parts), node.suffix, node.truncate)
                for name, node in nodes.items()
            }
            new = {action for action in actions.values() if action not in seen}
            world.build()
            assert world.texts() == expected
            assert len(world.ran()) == len(new)
            assert {actions[name] for name in world.ran()} == new
            seen |= new
            world.build()
            assert world.ran() == []
