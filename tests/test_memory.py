"""The memory graph as specification: `build graph`, strict mapping, nodes that hold their examples, `build add behavior`."""

import json
import os

import pytest

from tests.checkpoints import checkpoint
from tests.conftest import Project
from tests.test_training import rows

FILE = """# the project's voice
[graph]
nodes = "memory/*.md"   # the specification
{strict}
[base.tiny]
path = "tiny"

[behavior.voice]        # how it is said
node     = "core#voice"
examples = "voice.jsonl"

# what all of it becomes
[merged.v1]
vectors = {{ voice = 1.0 }}
"""


@pytest.fixture
def specified(project: Project) -> Project:
    checkpoint(project.root / "tiny", {"a": [1, 2]})
    project.file("memory/core.md").write_text("---\nid: core\naspects: [voice]\nlinks: [mood]\n---\nProse.\n")
    project.file("memory/mood.md").write_text("---\nid: mood\n---\n")
    project.file("voice.jsonl").write_text(rows(60))
    project.file("more.jsonl").write_text(rows(90))
    project.buildfile(FILE.format(strict=""))
    return project


def test_the_graph_goes_from_nodes_to_merges(specified: Project) -> None:
    ran = specified.build("graph")
    assert ran.code == 0
    assert ran.stdout == (
        "core  links mood\n  #voice  voice → vector-voice → verified-voice → merged-v1\nmood\n\nbase-tiny\nmerged-v1 ← base-tiny, voice\n"
    )
    assert ran.stderr == "warning: node 'mood' has no vector\n"
    found = specified.build("graph", "--format", "json").json()
    assert found["nodes"]["core"]["vectors"] == {"core#voice": ["vector-voice"]}
    assert found["targets"]["merged-v1"]["needs"] == ["base-tiny", "vector-voice", "verified-voice"]
    assert found["problems"] == ["node 'mood' has no vector"]


def test_the_graph_is_drawn_for_markdown_and_for_graphviz(specified: Project) -> None:
    mermaid = specified.build("graph", "--format", "mermaid").stdout.splitlines()
    assert mermaid[0] == "flowchart LR"
    assert '  n0(["core"])' in mermaid
    assert "  n0 -.-> n1" in mermaid
    dot = specified.build("graph", "--format", "dot").stdout
    assert dot.startswith("digraph build {")
    assert '"vector-voice" -> "merged-v1"' in dot


MISFITS = {
    "a vector without a node": ('[behavior.bare]\nexamples = "more.jsonl"\n', "vector 'bare' has no node"),
    "two vectors on one node": (
        '[behavior.twin]\nnode = "core#voice"\nexamples = "more.jsonl"\n',
        "node 'core#voice' has 2 vectors: voice, twin",
    ),
    "a node without a vector": ("", "node 'mood' has no vector"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_map_is_reported_and_refused_where_the_graph_is_strict(specified: Project, case: str) -> None:
    more, expected = MISFITS[case]
    specified.buildfile(FILE.format(strict="") + more)
    ran = specified.build("graph")
    assert (ran.code, f"warning: {expected}" in ran.stderr) == (0, True)
    specified.buildfile(FILE.format(strict="strict = true") + more)
    ran = specified.build("status")
    assert ran.code == 2
    assert expected in ran.stderr


def test_a_link_to_nowhere_is_named_with_the_nearest(specified: Project) -> None:
    specified.file("memory/mood.md").write_text("---\nid: mood\nlinks: [cor]\n---\n")
    assert "warning: node 'mood' links to 'cor', which is no node; the nearest is 'core'\n" in specified.build("graph").stderr


def test_a_sum_needs_no_node(specified: Project) -> None:
    specified.buildfile(FILE.format(strict="") + "[vector.half]\nsum = { voice = 0.5 }\n")
    assert "half" not in specified.build("graph").stderr


NODE = "---\nid: mood\naspects: [calm]\n---\n{prose}\n\n```jsonl\n{own}```\n\n~~~~jsonl calm\n{calm}~~~~\n\n```toml\n[not]\n```\n"


def test_a_node_may_hold_its_examples_and_its_prose_changes_nothing(specified: Project) -> None:
    def node(prose: str, number: int) -> None:
        specified.file("memory/mood.md").write_text(NODE.format(prose=prose, own=rows(number), calm=rows(number + 5)))

    def state() -> dict:
        found = specified.build("status", "vector-mood", "vector-calm", "--json").json()["targets"]
        return {name: found[name]["key"] for name in ("vector-mood", "vector-calm")}

    assert specified.build("base-tiny", "-q").code == 0
    node("Before.", 40)
    specified.buildfile(FILE.format(strict="") + '[behavior.mood]\nnode = "mood"\n[behavior.calm]\nnode = "mood#calm"\n')
    first = state()
    assert first["vector-mood"]
    assert first["vector-mood"] != first["vector-calm"]
    node("Other words,\nand more of them.", 40)
    assert state() == first
    node("Before.", 41)
    assert state()["vector-mood"] != first["vector-mood"]
    specified.file("same.jsonl").write_text(rows(40))
    specified.buildfile(FILE.format(strict="") + '[behavior.mood]\nexamples = "same.jsonl"\n[behavior.calm]\nnode = "mood#calm"\n')
    assert state()["vector-mood"] == first["vector-mood"]  # where rows stand is no part of a key


def test_a_bad_row_in_a_node_is_named_by_its_line_there(specified: Project) -> None:
    specified.file("memory/mood.md").write_text("---\nid: mood\n---\nWords.\n\n```jsonl\n{}\n```\n")
    specified.buildfile(FILE.format(strict="") + '[behavior.mood]\nnode = "mood"\n')
    ran = specified.build("status")
    assert ran.code == 2
    assert "memory/mood.md\n  line 7  has the fields none" in ran.stderr


def test_a_behaviour_without_examples_says_where_they_could_stand(specified: Project) -> None:
    specified.buildfile(FILE.format(strict="") + '[behavior.mood]\nnode = "mood"\n[behavior.bare]\n')
    ran = specified.build("status")
    assert ran.code == 2
    assert "'examples' is missing, and node 'mood' holds none" in ran.stderr
    assert "'examples' is missing, and there is no 'node' that could hold them" in ran.stderr


def test_a_new_behaviour_is_written_after_the_others_and_everything_else_stays(specified: Project) -> None:
    before = (specified.root / "Buildfile.toml").read_text()
    ran = specified.build("add", "behavior", "calm", "--node", "mood", "--examples", "more.jsonl")
    assert ran.code == 0, ran.stderr
    after = (specified.root / "Buildfile.toml").read_text()
    added = '\n[behavior.calm]\nnode = "mood"\nexamples = "more.jsonl"\n'
    assert added in after
    assert after.replace(added, "", 1) == before
    assert after.index("[behavior.calm]") < after.index("# what all of it becomes")
    assert "verified-calm" in specified.build("list").stdout
    assert specified.build("graph").stderr == ""


def test_a_new_node_and_a_new_aspect_are_written_too(specified: Project) -> None:
    assert specified.build("add", "behavior", "calm", "--node", "quiet", "--examples", "more.jsonl").code == 0
    assert (specified.root / "memory/quiet.md").read_text() == "---\nid: quiet\nlinks: []\n---\n"
    specified.file("edge.jsonl").write_text(rows(70))
    specified.file("edge.eval.jsonl").write_text(rows(30).replace("number ", "number 9"))
    ran = specified.build("add", "behavior", "edge", "--node", "core#edge", "--examples", "edge.jsonl", "--rows", "edge.eval.jsonl")
    assert ran.code == 0, ran.stderr
    assert (specified.root / "memory/core.md").read_text() == "---\nid: core\naspects: [voice, edge]\nlinks: [mood]\n---\nProse.\n"
    assert 'verify = {rows = "edge.eval.jsonl"}' in (specified.root / "Buildfile.toml").read_text()
    assert json.loads(specified.build("list", "--json").stdout)["targets"]["vector-edge"]["node"] == "core#edge"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("voice", "--node", "mood", "--examples", "more.jsonl"), "there is a behavior 'voice' already"),
        (("calm", "--node", "new", "--examples", "absent.jsonl"), "'absent.jsonl' is not there"),
        (("a b", "--node", "mood", "--examples", "more.jsonl"), "characters other than letters"),
        (("calm", "--node", "../up", "--examples", "more.jsonl"), "node '../up' is not in memory/"),
    ],
)  # fmt: skip
def test_a_behaviour_that_would_be_wrong_changes_no_file(specified: Project, arguments: tuple[str, ...], expected: str) -> None:
    def files() -> dict:
        return {path: path.read_bytes() for path in specified.root.rglob("*") if path.is_file() and "cache" not in path.parts}

    before = files()
    ran = specified.build("add", "behavior", *arguments)
    assert ran.code == 2
    assert expected in ran.stderr
    assert files() == before


def test_nothing_is_written_outside_of_the_project(specified: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    away = tmp_path_factory.mktemp("away")
    (away / "note.md").write_text("---\nid: note\naspects: [a]\n---\nprivate\n")
    (specified.root / "memory/n.md").symlink_to(away / "note.md")
    before = (specified.root / "Buildfile.toml").read_text()
    ran = specified.build("add", "behavior", "calm", "--node", "note#b", "--examples", "more.jsonl")
    assert (ran.code, ran.stderr) == (
        2,
        "error: n.md is a link, and nothing is written through one\n"
        f"  link         {specified.root}/memory/n.md\n  destination  {away}/note.md\nhint: write it by hand\n",
    )
    (specified.root / "memory/n.md").unlink()
    text = before.replace("memory/*.md", f"{os.path.relpath(away, specified.root)}/new/*.md").replace('node     = "core#voice"\n', "")
    specified.buildfile(text)
    ran = specified.build("add", "behavior", "calm", "--node", "quiet", "--examples", "more.jsonl")
    assert (ran.code, ran.stderr) == (
        2,
        "error: quiet.md is outside of the project, where nothing is written\n"
        f"  folder   {away}/new\n  project  {specified.root}\nhint: write it by hand\n",
    )
    assert [path.name for path in away.iterdir()] == ["note.md"]
    assert (away / "note.md").read_text() == "---\nid: note\naspects: [a]\n---\nprivate\n"
    assert (specified.root / "Buildfile.toml").read_text() == text


def test_a_linked_buildfile_is_not_edited(specified: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("away") / "other.toml"
    (specified.root / "Buildfile.toml").rename(other)
    (specified.root / "Buildfile.toml").symlink_to(other)
    before = other.read_text()
    ran = specified.build("add", "behavior", "calm", "--node", "quiet", "--examples", "more.jsonl")
    assert ran.stderr.startswith("error: Buildfile.toml is a link, and nothing is written through one\n")
    assert (ran.code, other.read_text(), (specified.root / "memory/quiet.md").exists()) == (2, before, False)


def test_a_folder_made_for_a_node_goes_again_when_the_behavior_is_wrong(specified: Project) -> None:
    text = (specified.root / "Buildfile.toml").read_text()
    specified.buildfile(text.replace("memory/*.md", "new/nodes/*.md").replace('node     = "core#voice"\n', ""))
    assert specified.build("add", "behavior", "calm", "--node", "quiet", "--examples", "absent.jsonl").code == 2
    assert not (specified.root / "new").exists()


def test_a_table_is_never_written_into_a_text(specified: Project) -> None:
    text = FILE.format(strict="") + '[behavior.odd]\nexamples = "more.jsonl"\nverify = { regex = """\n[x]\n""" }\n'
    specified.buildfile(text)
    ran = specified.build("add", "behavior", "calm", "--node", "mood", "--examples", "voice.jsonl")
    assert ran.code == 0, ran.stderr
    assert "vector-calm" in specified.build("list").stdout
    assert 'regex = """\n[x]\n"""' in (specified.root / "Buildfile.toml").read_text()


def test_a_date_that_is_none_in_the_front_matter_changes_nothing(specified: Project) -> None:
    specified.file("memory/mood.md").write_text("---\nid: mood\nwhen: 2024-99-99\n---\n")
    assert specified.build("status").code == 0
