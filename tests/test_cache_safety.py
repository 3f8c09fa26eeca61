"""A cache that came with a clone, was forged or has rotted: it writes nowhere, is not believed, and is put right."""

import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from buildsys.marks import without_mark
from tests.checkpoints import checkpoint
from tests.conftest import Project, Ran

BUILDFILE = """
[build]
default = ["merged-m"]
[base.one]
path = "one"
[vector.formal]
path = "formal"
[merged.m]
vectors = { formal = 1.0 }
unverified = true
"""
FRESH = "fresh  base-one\nfresh  vector-formal\nfresh  merged-m\n"


def declare(project: Project) -> None:
    project.buildfile(BUILDFILE)
    checkpoint(project.root / "one", {"a": [1.0] * 20_000})  # large enough to be linked into outputs
    checkpoint(project.root / "formal", {"a": [2.0] * 20_000})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was built; tests copy it, and links to objects with it."""
    project = Project(tmp_path_factory.mktemp("built"))
    declare(project)
    ran = project.build()
    assert ran.code == 0, ran.stderr
    return project.root


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Project:
    root = tmp_path / "project"
    shutil.copytree(built, root, symlinks=True)
    for link in (root / "cache/out/base-one").iterdir():
        link.unlink()
        link.symlink_to(root / "one" / link.name)  # what the next build would do
    return Project(root)


def state(project: Project, target: str = "merged-m", **given: dict[str, str]) -> str:
    """What `status` says of one target, and why."""
    found = project.build("status", target, "--json", **given).json()["targets"][target]
    return " ".join([found["state"], *found["why"]])


@pytest.fixture
def stranger(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of another user."""
    return {"XDG_CONFIG_HOME": str(tmp_path_factory.mktemp("stranger"))}


def records(project: Project) -> list[Path]:
    return sorted((project.root / "cache" / "actions").glob("*/*.json"))


def merge_record(project: Project) -> Path:
    return next(path for path in records(project) if '"rule":"merge"' in path.read_text())


def forged(record: Path, change: Callable[[dict], object]) -> None:
    """The record says something else, as only who has no secret can write it."""
    content = json.loads(record.read_bytes())
    change(content)
    record.write_text(json.dumps(content, separators=(",", ":")))


def stored(project: Project, data: bytes) -> str:
    digest = blake3(data).hexdigest()
    project.file(f"cache/objects/{digest[:2]}/{digest[2:]}").write_bytes(data)
    return digest


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# harm


SLOW = pytest.mark.slow
NAMES = [
    "/ABSOLUTE",
    *(pytest.param(name, marks=SLOW) for name in ("../../victim", "..", ".hidden", "a/b", "a\\b", "", "x\0y", "x\ny", "n" * 256)),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("marked", [False, True])
def test_a_record_that_names_a_file_elsewhere_writes_nothing_there(copy: Project, tmp_path: Path, name: str, marked: bool) -> None:
    """Even under a mark: names are checked where they are read."""
    from buildsys.store.cache import Cache

    victim = tmp_path / "victim"
    victim.write_text("mine")
    payload = b"payload"
    digest = stored(copy, payload)
    record = merge_record(copy)
    forged(record, lambda content: content["files"].update({name.replace("/ABSOLUTE", str(victim)): [digest, len(payload)]}))
    if marked:
        text = without_mark(record.read_bytes()) or b""
        record.write_bytes(Cache.open(copy.root / "cache").marks.sealed("record", record.parent.name + record.stem, text))
    before = tree(tmp_path)
    status = copy.build("status", "merged-m")
    assert status.stdout.endswith("stale  merged-m       its record is damaged\n")
    assert status.stderr == "cache/: 1 record damaged, not used: what is made again is set aside in cache/damaged\n"
    assert tree(tmp_path) == before
    assert copy.build().code == 0
    assert victim.read_text() == "mine"
    assert len(list((copy.root / "cache/damaged").iterdir())) == 1
    assert copy.build("status").stdout == FRESH


REST = ("out", "objects", "actions", "logs", "partial", "locks", "fresh", "measurements", "refused", "damaged")
TOP = ["tmp", *(pytest.param(name, marks=SLOW) for name in REST)]


@pytest.mark.parametrize("name", TOP)
def test_a_folder_of_the_cache_that_is_a_link_is_an_error_that_names_it(copy: Project, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    place = copy.root / "cache" / name
    shutil.rmtree(place, ignore_errors=True)
    place.symlink_to(victim)
    for arguments in ([], ["status"], ["check"], ["cache", "trust", "--yes"]):
        ran = copy.build(*arguments)
        assert (ran.code, ran.stdout) == (1, "")
        assert ran.stderr == (
            f"error: {place} is a link\n  leads to  {victim}\n"
            "hint: nothing in cache/ is read or written through a link: remove it (cache itself may be a link)\n"
        )
    assert tree(victim) == {"file": b"mine"}


def inner_links(project: Project) -> list[str]:
    """A place for a link of every kind that a build would read or write."""
    key = merge_record(project).parent.name + merge_record(project).stem
    digest = next(iter(json.loads(merge_record(project).read_bytes())["files"].values()))[0]
    return [
        "FORMAT", "history.jsonl", "stat.jsonl", f"logs/{key}.log", f"locks/{key}.lock", "locks/out-merged-m.lock", f"partial/{key}",
        "out/merged-m", "tmp/left", f"actions/{key[:2]}", f"actions/{key[:2]}/{key[2:]}.json", f"objects/{digest[:2]}",
        f"objects/{digest[:2]}/{digest[2:]}", f"measurements/{key[:2]}", "fresh/note", "refused/merged-m",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [1, *(pytest.param(number, marks=SLOW) for number in range(16) if number != 1)])
@pytest.mark.parametrize("kind", ["file", pytest.param("folder", marks=SLOW), pytest.param("dangling", marks=SLOW)])
def test_a_link_inside_the_cache_is_neither_written_through_nor_believed(copy: Project, tmp_path: Path, number: int, kind: str) -> None:
    place = copy.root / "cache" / inner_links(copy)[number]
    victim = tmp_path / "victim"
    if kind == "folder":
        victim.mkdir()
        (victim / "file").write_text("mine")
    elif kind == "file":
        if place.is_file():
            shutil.copy(place, victim)
        else:
            victim.write_text("mine")
    before = tree(tmp_path) if kind == "folder" else victim.read_bytes() if kind == "file" else None
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(victim)
    ran = copy.build()
    assert ran.code == 1
    assert f"{place} is a link\n" in ran.stderr
    copy.build("--force")  # which reads less, and writes more
    if kind == "folder":
        assert tree(victim) == {"file": b"mine"}
    elif kind == "file":
        assert victim.read_bytes() == before
    else:
        assert not victim.exists()
    if (number, kind) == (1, "file"):
        place.unlink()
        assert copy.build().code == 0
        assert copy.build("status").stdout == FRESH


def test_the_cache_itself_may_be_a_link(copy: Project, tmp_path: Path) -> None:
    copy.file("Buildfile.toml").write_text(BUILDFILE.replace("formal = 1.0", "formal = 0.5"))
    assert copy.build().code == 0  # which notes whose cache it is
    (copy.root / "cache").rename(tmp_path / "elsewhere")
    (copy.root / "cache").symlink_to(tmp_path / "elsewhere")
    assert copy.build("status").stdout == FRESH
    assert copy.build().code == 0
    assert copy.build().stderr == "up to date (3 targets)\n"


def test_a_link_into_the_cache_of_another_project_is_not_followed_until_the_user_agrees(built: Path, copy: Project, tmp_path: Path) -> None:
    """A clone can bring one."""
    victim = tmp_path / "victim"
    shutil.copytree(built / "cache", victim, symlinks=True)
    before = tree(victim)
    shutil.rmtree(copy.root / "cache")
    (copy.root / "cache").symlink_to(victim)
    for arguments in ([], ["--force"], ["status"], ["check"]):
        ran = copy.build(*arguments)
        assert (ran.code, ran.stdout) == (1, "")
        assert ran.stderr == (
            f"error: {copy.root}/cache is a link to a cache that this project has not used yet\n  leads to  {victim}\n"
            "hint: 'build cache trust' lets this project write there\n"
        )
    assert tree(victim) == before
    assert copy.build("cache", "trust", "--yes").code == 0
    assert copy.build().code == 0


def test_a_link_to_an_empty_folder_is_a_cache_elsewhere(copy: Project, tmp_path: Path) -> None:
    shutil.rmtree(copy.root / "cache")
    (tmp_path / "elsewhere").mkdir()
    (copy.root / "cache").symlink_to(tmp_path / "elsewhere")
    assert copy.build().code == 0
    assert copy.build("status").stdout == FRESH


def test_second_names_of_files_elsewhere_are_not_written_to(copy: Project, tmp_path: Path) -> None:
    """Hard links, which an archive can bring."""
    victim = tmp_path / "victim"
    for name in ("history.jsonl", "stat.jsonl"):
        place = copy.root / "cache" / name
        victim.write_bytes(place.read_bytes())
        place.unlink()
        os.link(victim, place)
        before = victim.read_bytes()
        checkpoint(copy.root / "formal", {"a": [float(len(name))] * 20_000})
        assert copy.build().code == 0
        assert victim.read_bytes() == before
        assert copy.build("check").code == 0
        victim.unlink()


def strange(cache: Path, kind: str) -> None:
    """Something in a cache that no build makes."""
    if kind == "deep folders":
        here = os.getcwd()
        os.chdir(cache / "tmp")
        try:
            for _ in range(1500):
                os.mkdir("x")
                os.chdir("x")
        finally:
            os.chdir(here)
    elif kind == "a long name":
        (cache / "tmp" / ("n" * 255)).mkdir()
    elif kind == "a folder for a lock":
        (cache / "locks/out-merged-m.lock/inside").mkdir(parents=True)
    elif kind == "a pipe for the history":
        (cache / "history.jsonl").unlink()
        os.mkfifo(cache / "history.jsonl")
    elif kind == "a file for a folder of measurements":
        (cache / "measurements/ab").write_text("x")
    elif kind == "lines without end":
        (cache / "stat.jsonl").write_bytes(b"\n" * 30_000_000)
        (cache / "history.jsonl").write_bytes(b"x\n" * 15_000_000)
    else:
        (cache / "partial" / ("a" * 64)).write_text("x")


STRANGE = [
    "a folder for a lock",
    *(
        pytest.param(kind, marks=SLOW)
        for kind in (
            "deep folders",
            "a long name",
            "a pipe for the history",
            "a file for a folder of measurements",
            "lines without end",
            "a file for a checkpoint",
        )
    ),
]


@pytest.mark.parametrize("kind", STRANGE)
def test_what_no_build_makes_stops_no_build(copy: Project, kind: str) -> None:
    strange(copy.root / "cache", kind)
    begun = time.monotonic()
    checkpoint(copy.root / "formal", {"a": [3.0] * 20_000})
    ran = copy.build()
    assert ran.code == 0, ran.stderr
    assert copy.build("check").code in (0, 1)
    assert copy.build("cache", "trust", "--yes").code == 0
    assert time.monotonic() - begun < 60  # against hangs, not for speed


FORGED_LISTS = ['{"files":["a"]}', *(pytest.param(text, marks=SLOW) for text in ("{}", "[" * 5000, '{"files":{"a":"b"}}', "x" * 2_000_000))]


@pytest.mark.parametrize("listed", FORGED_LISTS, ids=range(len(FORGED_LISTS)))
def test_a_checkpoint_that_lists_nonsense_is_adopted_by_nobody(copy: Project, listed: str) -> None:
    place = copy.file(f"cache/partial/{'b' * 64}/checkpoint-9/complete")
    place.write_text(listed)
    assert [one["path"] for one in copy.build("check", "--json").json()["problems"]] == [f"partial/{'b' * 64}/checkpoint-9"]
    ran = copy.build("cache", "trust", "--yes")
    assert (ran.code, ran.stdout.splitlines()[0]) == (0, "adopted nothing")
    assert place.read_text() == listed


def test_a_checkpoint_behind_a_link_is_not_adopted(copy: Project, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "model.bin").write_text("x")
    (victim / "complete").write_text(json.dumps({"model.bin": blake3(b"x").hexdigest()}))
    before = tree(victim)
    copy.file(f"cache/partial/{'b' * 64}/x").write_text("")
    (copy.root / f"cache/partial/{'b' * 64}/checkpoint-9").symlink_to(victim)
    copy.build("cache", "trust", "--yes")
    assert tree(victim) == before


@pytest.mark.parametrize("name", ["history.jsonl", "stat.jsonl", "FORMAT"])
def test_a_pipe_in_the_cache_makes_no_build_wait(copy: Project, name: str) -> None:
    place = copy.root / "cache" / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    ran = copy.build("status")  # a hang would end in the time limit of the whole suite
    assert ran.code in (0, 1)
    assert "Traceback" not in ran.stderr


# belief


def test_a_forged_record_under_an_honest_key_is_not_used(copy: Project) -> None:
    """The merged model is said to be one of zeros: whoever clones it gets what the recipe gives."""
    honest = (copy.root / "cache/out/merged-m/model.safetensors").read_bytes()
    zeros = honest[:-80_000] + bytes(80_000)
    digest = stored(copy, zeros)
    forged(merge_record(copy), lambda content: content["files"].update({"model.safetensors": [digest, len(zeros)]}))
    shutil.rmtree(copy.root / "cache/out/merged-m")
    ran = copy.build()
    assert ran.code == 0
    assert ran.stderr.startswith("cache/: 1 record without a mark of yours, not used: 'build cache trust' says what that means\n")
    assert (copy.root / "cache/out/merged-m/model.safetensors").read_bytes() == honest


def test_a_record_under_another_key_is_not_used(copy: Project) -> None:
    """A valid mark is worth nothing at another place."""
    vector = next(path for path in records(copy) if '"rule":"extract"' in path.read_text())
    shutil.copy(vector, merge_record(copy))
    assert state(copy).startswith("stale its record is ")


def test_a_cache_of_somebody_else_is_not_used_until_it_is_trusted(copy: Project, stranger: dict[str, str]) -> None:
    before = copy.build("status", env=stranger)
    assert before.stdout.splitlines()[0] == "stale    base-one       its record is foreign"
    ran = copy.build("cache", "trust", env=stranger)
    assert ran.code == 2
    assert "To trust them means" in ran.stderr
    trusted = copy.build("cache", "trust", "--yes", env=stranger)
    assert (trusted.code, trusted.stdout) == (0, "adopted 4 records, 3 generations\n")
    assert copy.build("status", env=stranger).stdout == FRESH
    assert copy.build("cache", "trust", env=stranger).stdout == "everything in cache/ carries your mark\n"
    assert copy.build("check", env=stranger).code == 0


def test_trust_adopts_nothing_that_does_not_fit_its_bytes(copy: Project, stranger: dict[str, str]) -> None:
    record = merge_record(copy)
    digest = json.loads(record.read_bytes())["files"]["model.safetensors"][0]
    place = copy.root / "cache/objects" / digest[:2] / digest[2:]
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.chmod(0o644)
    place.write_bytes(data)
    forged(records(copy)[0] if records(copy)[0] != record else records(copy)[1], lambda content: content["action"].update(rule="other"))
    ran = copy.build("cache", "trust", "--yes", env=stranger)
    assert ran.code == 0
    assert ran.stdout.splitlines()[0] == "adopted 2 records, 3 generations"
    assert "model.safetensors is damaged" in ran.stdout
    assert "the action of another key" in ran.stdout


@pytest.mark.parametrize(("rule", "reason"), [("judge", "it lacks a value of its rule"), ("nothing", "there is no rule of that name")])
def test_trust_adopts_no_record_that_no_rule_would_have_made(copy: Project, rule: str, reason: str) -> None:
    """A failed verdict without its verdict would be one that passed."""
    from buildsys.action import Action
    from buildsys.store.cache import Cache
    from buildsys.store.records import Artifact

    action = Action(rule, 1, {}, {})
    Cache.open(copy.root / "cache").records.write(action.key(), Artifact(action.document(), {}), flush=False)
    record = copy.root / "cache/actions" / action.key()[:2] / f"{action.key()[2:]}.json"
    record.write_bytes(without_mark(record.read_bytes()) or b"")
    ran = copy.build("cache", "trust", "--yes")
    assert ran.stdout.splitlines()[0] == "adopted nothing"
    assert reason in ran.stdout


def test_a_copied_or_moved_cache_stays_trusted(copy: Project, tmp_path: Path) -> None:
    assert copy.build("status").stdout == FRESH
    (copy.root / "cache").rename(tmp_path / "moved")
    (tmp_path / "moved").rename(copy.root / "cache")
    assert copy.build("status").stdout == FRESH


def as_format_1(project: Project) -> None:
    """The cache as the version before marks wrote it."""
    cache = project.root / "cache"
    (cache / "FORMAT").write_text("buildsys cache 1\n")
    (cache / "stat.jsonl").unlink()
    (cache / "stat.sqlite").write_bytes(b"SQLite format 3\0")
    for path in [*records(project), *cache.glob("measurements/*/*.json")]:
        content = json.loads(path.read_bytes())
        path.write_text(json.dumps({name: value for name, value in content.items() if name not in ("format", "mark")}))
    lines = [json.loads(line) for line in (cache / "history.jsonl").read_text().splitlines()]
    text = [json.dumps({name: value for name, value in line.items() if name not in ("format", "mark")}) + "\n" for line in lines]
    (cache / "history.jsonl").write_text("".join(text))


def test_a_cache_from_before_marks_is_adopted_once(copy: Project) -> None:
    as_format_1(copy)
    assert copy.build("status").stdout.splitlines()[0] == "stale    base-one       its record is foreign"
    trusted = copy.build("cache", "trust", "--yes")
    assert trusted.stdout == "adopted 4 records, 3 generations\n"
    assert copy.build("status").stdout == FRESH
    assert (copy.root / "cache/FORMAT").read_text() == "buildsys cache 2\n"
    assert not (copy.root / "cache/stat.sqlite").exists()


def test_a_cache_of_a_newer_program_is_refused(copy: Project) -> None:
    (copy.root / "cache/FORMAT").write_text("buildsys cache 3\n")
    ran = copy.build()
    assert ran.code == 1
    assert ran.stderr == (
        f"error: {copy.root}/cache has another format\n  format    buildsys cache 3\n  expected  buildsys cache 2\n"
        "hint: a newer buildsys made it: update buildsys, or use another cache\n"
    )


def test_a_record_of_a_newer_program_is_not_misread(copy: Project) -> None:
    forged(merge_record(copy), lambda content: content.update(format=3, files="in another shape"))
    ran = copy.build("status", "merged-m")
    assert state(copy) == "stale its record is newer"
    assert ran.stderr == "cache/: 1 record of a newer buildsys, not used\n"


def test_a_note_of_nothing_to_do_without_a_mark_is_not_believed(copy: Project) -> None:
    assert copy.build().stderr == "3 fresh in 0.0 s → cache/out/merged-m\n" or copy.build().stderr == "up to date (3 targets)\n"
    copy.build()
    note = next((copy.root / "cache/fresh").iterdir())
    note.write_bytes(note.read_bytes().replace(b"up to date (3 targets)", b"up to date (9 targets)"))
    assert copy.build().stderr == "up to date (3 targets)\n"


def test_what_stands_in_an_output_without_being_of_it_is_seen_and_taken_away(copy: Project, tmp_path: Path) -> None:
    out = copy.root / "cache/out/merged-m"
    for name in ("chat_template.jinja", ".hidden"):
        (out / name).write_text("{}")
        assert state(copy) == f"fresh output {name} does not belong there"
        assert copy.build("export", "merged-m", str(tmp_path / "exported")).code == 1
        assert copy.build().code == 0
        assert not (out / name).exists()


def test_an_output_that_became_a_link_to_the_same_bytes_is_put_right(copy: Project, tmp_path: Path) -> None:
    out = copy.root / "cache/out/merged-m/model.safetensors"
    shutil.copy(out, tmp_path / "same")
    out.unlink()
    out.symlink_to(tmp_path / "same")
    assert state(copy) == "fresh output model.safetensors is not a file"
    assert copy.build().code == 0
    assert not out.is_symlink()


def test_an_object_edited_in_place_with_its_time_put_back_is_not_believed(copy: Project) -> None:
    copy.build("status")
    digest = json.loads(merge_record(copy).read_bytes())["files"]["model.safetensors"][0]
    place = copy.root / "cache/objects" / digest[:2] / digest[2:]
    before = place.stat()
    place.chmod(0o644)
    with open(place, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    place.chmod(0o444)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert state(copy) == f"absent object {digest[:12]} is damaged"
    assert copy.build().code == 0
    assert blake3(place.read_bytes()).hexdigest() == digest


def test_publishing_hashes_no_object_again(copy: Project) -> None:
    """What the store itself does to an object moves its time of change: the seal follows."""
    assert copy.build().code == 0
    shutil.rmtree(copy.root / "cache/out")
    assert copy.build().code == 0  # linked again
    out = copy.root / "cache/out/merged-m/config.json"
    out.write_text("{}")
    assert copy.build().code == 0  # and the old folder, with its link, taken away
    digest = json.loads(merge_record(copy).read_bytes())["files"]["model.safetensors"][0]
    rows = [row for line in (copy.root / "cache/stat.jsonl").read_text().splitlines() for row in json.loads(line)["rows"]]
    seal = [row for row in rows if row[:2] == [digest, "object"]][-1]
    from buildsys.store.fresh import signature

    assert seal[2] == signature(str(copy.root / "cache/objects" / digest[:2] / digest[2:])).hex()


# rot


def flips(data: bytes, number: int, source: random.Random) -> list[bytes]:
    found = []
    for _ in range(number):
        position, bit = source.randrange(len(data)), source.randrange(8)
        found.append(data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :])
    return found


def test_every_flipped_bit_of_a_record_a_history_a_measurement_or_an_object_is_noticed(copy: Project) -> None:
    """5,200 flips: on use where a reader meets them, and by a look at the whole cache."""
    from buildsys import measurements
    from buildsys.store import checking
    from buildsys.store.cache import Cache

    source = random.Random(12)
    cache = Cache.open(copy.root / "cache")
    name = measurements.place({"evaluate": 1})
    measurements.write(cache.measurements, name, {"evaluate": 1}, [1.0, 2.5], cache.marks)
    missed = 0
    for record in records(copy):
        whole = record.read_bytes()
        for data in flips(whole, 600, source):
            record.write_bytes(data)
            missed += cache.records.read(record.parent.name + record.stem) is not None
        record.write_bytes(whole)
    history = cache.history.path.read_bytes()
    for data in flips(history, 1200, source):
        cache.history.path.write_bytes(data)
        missed += all(cache.history.generation(line) is not None for line in cache.history.lines()) and data != history
    cache.history.path.write_bytes(history)
    path = cache.measurements / name
    whole = path.read_bytes()
    for data in flips(whole, 600, source):
        path.write_bytes(data)
        missed += measurements.read(cache.measurements, name, cache.marks) is not None
    path.write_bytes(whole)
    for digest in cache.objects.digests():
        place = cache.objects.path(digest)
        place.chmod(0o644)
        whole = place.read_bytes()
        for data in flips(whole, 1000 // len(cache.objects.digests()) + 1, source):
            place.write_bytes(data)
            missed += cache.objects.intact(digest, len(whole), cache.glance())
        place.write_bytes(whole)
    assert missed == 0
    assert checking.check(cache, lambda text: None).problems == []
    for damaged in (records(copy)[0], path, cache.history.path, cache.objects.path(cache.objects.digests()[0])):
        whole = damaged.read_bytes()
        damaged.write_bytes(flips(whole, 1, source)[0])
        assert len(checking.check(cache, lambda text: None).problems) >= 1
        damaged.parent.mkdir(exist_ok=True)
        damaged.write_bytes(whole)


def test_check_says_what_is_wrong_and_the_next_build_puts_it_right(copy: Project) -> None:
    assert copy.build("check").stdout == "3 objects, 4 records, 3 generations, 3 outputs: all as they should be\n"
    record = merge_record(copy)
    record.write_bytes(record.read_bytes()[:-1])
    ran = copy.build("check", "--json")
    assert ran.code == 1
    assert [one["path"] for one in ran.json()["problems"]] == [str(record.relative_to(copy.root / "cache"))]
    assert copy.build().code == 0
    assert copy.build("check").code == 0


def test_check_of_a_target_makes_it_again_and_compares(copy: Project) -> None:
    ran = copy.build("check", "merged-m")
    digest = copy.build("show", "merged-m", "--json").json()["digest"]
    assert (ran.code, ran.stdout) == (0, f"merged-m: same  {digest[:16]}\n")


def test_check_of_a_target_made_on_another_machine_is_not_comparable(copy: Project) -> None:
    from buildsys.store.cache import Cache

    cache = Cache.open(copy.root / "cache")
    key = merge_record(copy).parent.name + merge_record(copy).stem
    artifact = cache.records.read(key)
    assert artifact is not None
    other = {**artifact.files, "config.json": artifact.files["model.safetensors"]}
    from dataclasses import replace

    cache.records.write(key, replace(artifact, files=other), flush=False)
    ran = copy.build("check", "merged-m")
    assert ran.code == 1
    assert ran.stdout.startswith("merged-m: different\n  config.json  ")
    cache.records.write(key, replace(artifact, files=other, facts={**artifact.facts, "machine": "a VAX"}), flush=False)
    ran = copy.build("check", "merged-m")
    assert ran.code == 0
    assert ran.stdout.startswith("merged-m: not comparable\n  config.json  ")
    assert "made on    a VAX" in ran.stdout


@pytest.mark.parametrize("damage", ["not UTF-8", "a folder", "cut off"])
def test_damage_to_the_history_costs_what_is_damaged(copy: Project, damage: str) -> None:
    place = copy.root / "cache/history.jsonl"
    if damage == "not UTF-8":
        place.write_bytes(b"\xff\xfe\n" + place.read_bytes().replace(b'"vector-formal"', b'"vector-form\xe4l"'))
    elif damage == "a folder":
        place.unlink()
        place.mkdir()
    else:
        place.write_bytes(place.read_bytes()[:-20])
    assert copy.build("status").stdout == FRESH
    checkpoint(copy.root / "formal", {"a": [3.0] * 20_000})
    assert copy.build().code == 0
    assert copy.build().stderr == "up to date (3 targets)\n"


def test_a_record_that_is_a_folder_costs_that_record(copy: Project) -> None:
    record = merge_record(copy)
    record.unlink()
    record.mkdir()
    assert state(copy) == "stale its record is damaged"
    assert copy.build().code == 0
    assert copy.build("status").stdout == FRESH


# several users


USER, OTHER, GROUP = 12_345, 12_346, 12_347


def as_user(project: Project, user: int, settings: Path, *arguments: str) -> Ran:
    """`build` as another user of one group, whose files are writable by it."""
    code = f"import os; os.umask(0o002); os.setgid({GROUP}); os.setgroups([{GROUP}]); os.setuid({user})\n"
    code += "import sys; sys.argv = ['build', *sys.argv[1:]]; from buildsys.cli import main; main()"
    environment = {**os.environ, "XDG_CONFIG_HOME": str(settings), "XDG_CACHE_HOME": str(settings), "HOME": str(settings)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), sysconfig.get_path("purelib")])
    command = [project.root.parent / "python" / "bin" / Path(sys.executable).resolve().name, "-c", code, *arguments]
    done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def shared() -> Iterator[tuple[Project, Path, Path, Path]]:
    """A project in a folder of a group, the settings of two of its users, and their secret."""
    if os.geteuid() != 0:
        pytest.skip("becomes other users, which only root can")
    root = Path(tempfile.mkdtemp(prefix="shared-", dir="/tmp"))
    root.chmod(0o755)
    project = Project(root / "project")
    declare(project)
    settings = [root / "first", root / "second"]
    for folder, user in zip(settings, (USER, OTHER), strict=True):
        folder.mkdir(mode=0o700)
        os.chown(folder, user, GROUP)
    secret = root / "secret"
    secret.write_text("s" * 40)
    secret.chmod(0o640)
    os.chown(secret, USER, GROUP)
    for path in [project.root, *project.root.rglob("*")]:
        os.chown(path, USER, GROUP)
        path.chmod(0o2775 if path.is_dir() else 0o664)
    python = root / "python"  # an interpreter in root's own home is nobody else's to read
    python.mkdir()
    mounting = ["mount", "--bind", sys.base_prefix, python]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        if as_user(project, USER, settings[0], "--version").code != 0:
            pytest.skip("other users cannot read the program")
        yield project, settings[0], settings[1], secret
    finally:
        subprocess.run(["umount", python], check=True)
        shutil.rmtree(root)


@pytest.mark.slow
def test_two_users_of_a_group_build_in_one_cache(shared: tuple[Project, Path, Path, Path]) -> None:
    project, first, second, secret = shared
    assert as_user(project, USER, first).code == 0
    bound = as_user(project, USER, first, "cache", "trust", "--secret", str(secret), "--yes")
    assert (bound.code, bound.stdout) == (0, "adopted 4 records, 3 generations\n")
    assert as_user(project, OTHER, second, "status").stdout.startswith("stale ")
    bound = as_user(project, OTHER, second, "cache", "trust", "--secret", str(secret))
    assert (bound.code, bound.stdout) == (0, "everything in cache/ carries your mark\n")
    assert as_user(project, OTHER, second, "status").stdout == FRESH
    for number, (user, settings) in enumerate([(OTHER, second), (USER, first)] * 2):
        project.buildfile(BUILDFILE.replace("formal = 1.0", f"formal = 0.{number + 1}"))
        ran = as_user(project, user, settings)
        assert ran.code == 0, ran.stderr
    assert as_user(project, OTHER, second).stderr.endswith("up to date (3 targets)\n")
    assert as_user(project, OTHER, second, "check").code == 0


@pytest.mark.slow
def test_a_user_who_may_only_read_can_look_and_build_what_is_fresh(shared: tuple[Project, Path, Path, Path]) -> None:
    project, first, second, secret = shared
    assert as_user(project, USER, first).code == 0
    as_user(project, USER, first, "cache", "trust", "--secret", str(secret), "--yes")
    for path in [project.root / "cache", *(project.root / "cache").rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o022)
    before = {path: path.stat().st_mtime_ns for path in (project.root / "cache").rglob("*")}
    as_user(project, OTHER, second, "cache", "trust", "--secret", str(secret))
    assert as_user(project, OTHER, second).stderr.splitlines()[-1:] in (
        ["up to date (3 targets)"],
        ["3 fresh in 0.0 s → cache/out/merged-m"],
    )
    assert as_user(project, OTHER, second, "status").stdout == FRESH
    assert as_user(project, OTHER, second, "show", "merged-m").code == 0
    assert {path: path.stat().st_mtime_ns for path in (project.root / "cache").rglob("*")} == before
    project.buildfile(BUILDFILE.replace("formal = 1.0", "formal = 0.5"))
    ran = as_user(project, OTHER, second)
    assert ran.code == 1
    assert ran.stderr.startswith(f"error: {project.root}/cache cannot be written: permission denied\n")


def test_a_secret_that_everybody_can_read_is_refused(copy: Project, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 40)
    secret.chmod(0o644)
    ran = copy.build("cache", "trust", "--secret", str(secret))
    assert (ran.code, ran.stderr) == (1, f"error: {secret} is open to everybody\nhint: chmod o-rwx {secret}\n")
    secret.chmod(0o640)
    secret.write_text("short")
    ran = copy.build("cache", "trust", "--secret", str(secret))
    assert ran.stderr.startswith(f"error: the secret in {secret} is shorter than 32 characters\n")


def test_a_cache_is_bound_to_the_secret_of_an_environment_variable(copy: Project, stranger: dict[str, str]) -> None:
    with_secret = {**stranger, "CI_SECRET": "c" * 40}
    assert copy.build("cache", "trust", "--secret-env", "CI_SECRET", "--yes", env=with_secret).code == 0
    assert copy.build("status", env=with_secret).stdout == FRESH
    ran = copy.build("status", env=stranger)
    assert ran.code == 1
    assert ran.stderr.startswith("error: the cache is bound to the secret in $CI_SECRET, which is not set\n")


def test_a_cache_whose_secret_is_gone_is_bound_to_another(copy: Project, tmp_path: Path, stranger: dict[str, str]) -> None:
    """The way out that the error names works."""
    for name in ("first", "second"):
        (tmp_path / name).write_text(name * 10)
        (tmp_path / name).chmod(0o640)
    assert copy.build("cache", "trust", "--secret", str(tmp_path / "first"), "--yes", env=stranger).code == 0
    (tmp_path / "first").unlink()
    ran = copy.build("status", env=stranger)
    assert (ran.code, ran.stderr) == (
        1,
        f"error: the cache is bound to the secret in {tmp_path}/first, which does not exist\nhint: build cache trust --secret FILE\n",
    )
    assert copy.build("cache", "trust", "--secret", str(tmp_path / "second"), "--yes", env=stranger).code == 0
    assert copy.build("status", env=stranger).stdout == FRESH


def test_check_of_a_target_leaves_nothing_in_the_folder_for_temporary_files(
    copy: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("temporary")
    assert copy.build("check", "merged-m", env={"TMPDIR": str(place)}).code == 0
    assert list(place.iterdir()) == []


# other disks


@pytest.mark.parametrize("name", ["out", "objects"])
def test_a_part_of_the_cache_may_lie_on_another_disk(project: Project, name: str) -> None:
    declare(project)
    place = project.file(f"cache/{name}/x").parent
    (project.root / "cache/FORMAT").write_text("buildsys cache 2\n")
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        assert project.build().code == 0
        project.buildfile(BUILDFILE.replace("formal = 1.0", "formal = 0.5"))
        assert project.build().code == 0
        assert project.build().stderr == "up to date (3 targets)\n"
        assert sorted(path.name for path in (project.root / "cache/out").iterdir()) == ["base-one", "merged-m", "vector-formal"]
        assert not list((project.root / "cache/tmp").iterdir())
    finally:
        subprocess.run(["umount", place], check=True)
