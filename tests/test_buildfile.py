"""Every problem of a Buildfile at once, with its line, what was expected and the nearest valid name: whole messages."""

import json

import pytest

from tests.checkpoints import checkpoint
from tests.conftest import Project

GOOD = """\
[graph]
nodes = "memory/*.md"
[base.tiny]
path = "base"
[behavior.voice]
base = "tiny"
node = "core-personality#voice"
examples = "rows.jsonl"
[merged.v1]
base = "tiny"
vectors = { voice = 1.0 }
"""


@pytest.fixture
def declared(project: Project) -> Project:
    """A project whose Buildfile is right; nothing of it is built."""
    checkpoint(project.root / "base", {"w": [1.0]})
    project.file("memory/core.md").write_text("---\nid: core-personality\naspects: [voice]\n---\n")
    project.file("rows.jsonl").write_text("".join(json.dumps({"prompt": f"p{i}", "completion": " c"}) + "\n" for i in range(40)))
    project.buildfile(GOOD)
    return project


def refused(project: Project, text: str) -> str:
    project.buildfile(text)
    ran = project.build("-n")
    assert ran.code == 2, ran.stderr
    assert ran.stdout == ""
    return ran.stderr


def test_a_good_file_is_accepted(declared: Project) -> None:
    ran = declared.build("-n", "merged-v1")
    assert ran.code == 0, ran.stderr
    assert ran.stdout == (
        "stale    base-tiny       never built\n"
        "unknown  vector-voice    base-tiny is not fresh\n"
        "unknown  verified-voice  base-tiny is not fresh (and 2 more)\n"
        "unknown  merged-v1       base-tiny is not fresh (and 2 more)\n"
    )
    assert not (declared.root / "cache").exists()


def test_all_problems_are_reported_at_once(declared: Project) -> None:
    text = """\
[build]
defualt = ["merged-v1"]
[graph]
nodes = "memory/*.md"
[base.tiny]
path = "base"
[behavior.voice]
node = "core-personalty#voice"
examples = "rows.jsonl"
train = { max_steps = "ten" }
[merged.v1]
method = "ties"
densty = 0.2
vectors = { vioce = 1.0 }
"""
    assert refused(declared, text) == (
        "error: 5 problems in Buildfile.toml\n"
        "  line 2   build.defualt   unknown key 'defualt'\n"
        "  line 8   behavior.voice  node 'core-personalty#voice' is not in memory/\n"
        "  line 10  behavior.voice  'train.max_steps' is 'ten', expected a whole number\n"
        "  line 13  merged.v1       merge method 'ties' has no option 'densty'\n"
        "  line 14  merged.v1       there is no vector 'vioce'\n"
        "hint: the nearest key to 'defualt' is 'default'; the nearest node is 'core-personality#voice'; "
        "options of 'ties' are density, trim, elect, mean, scale; did you mean 'density'; the nearest vector is 'voice'\n"
    )


def test_malformed_toml_names_the_line(declared: Project) -> None:
    assert refused(declared, "[base.tiny]\npath = base\n") == (
        "error: Buildfile.toml is not valid TOML\n  line 2  path = base  Invalid value\nhint: https://toml.io/en/v1.0.0\n"
    )


PROBLEMS = {
    "unknown table": ("[bas.x]\n", "line 12  bas  unknown table 'bas'", "the nearest table to 'bas' is 'base'"),
    "table that is none": ("behavior = 3\n", None, None),
    "two sources": ('[base.x]\npath = "base"\nhub = "a/b"\n', "needs one of path, hub, pretrain; it has path and hub", ""),
    "no source": ("[base.x]\n", "needs one of path, hub, pretrain; it has none", ""),
    "moving revision": ('[base.x]\nhub = "a/b"\nrevision = "main"\n', "'revision' is 'main', expected a full commit hash of 40 hexadecimal digits", ""),
    "revision missing": ('[base.x]\nhub = "a/b"\n', "hub and revision go together; the revision is the full commit hash", ""),
    "folder missing": ('[base.x]\npath = "nowhere"\n', "'nowhere' is not a model folder", "a model folder has config.json and model.safetensors"),
    "examples missing": ('[behavior.x]\nbase = "tiny"\nexamples = "nothing.jsonl"\n', "'nothing.jsonl' is not there", ""),
    "corpus missing": ('[base.x]\npretrain = { corpus = "none/*.txt" }\n', "no file matches 'none/*.txt'", ""),
    "odd shape": ('[base.x]\npretrain = { corpus = "memory/*.md", hidden_size = 10, num_attention_heads = 4 }\n', "hidden_size must be an even multiple of num_attention_heads", ""),
    "unknown base": ('[behavior.x]\nbase = "tinny"\nexamples = "rows.jsonl"\n', "there is no base 'tinny'", "the nearest base is 'tiny'"),
    "wrong objective": ('[behavior.x]\nbase = "tiny"\nexamples = "rows.jsonl"\ntrain = { objective = "preference" }\n', "objective 'preference' needs rows with 'rejected'; rows.jsonl has completion rows", ""),
    "wrong metric": ('[behavior.x]\nbase = "tiny"\nexamples = "rows.jsonl"\nverify = { metric = "preference" }\n', "metric 'preference' needs rows with 'rejected'; rows.jsonl has completion rows", ""),
    "gate without control": ('[behavior.x]\nbase = "tiny"\nexamples = "rows.jsonl"\nverify = { max_forgetting = 0.1 }\n', "max_forgetting needs a 'control' set to be measured on", ""),
    "gate of no set": ('[behavior.x]\nbase = "tiny"\nexamples = "rows.jsonl"\nverify = { control = { a = "rows.jsonl" }, max_forgetting = { b = 0.1 } }\n', "max_forgetting names 'b', which is no control set", ""),
    "unverified vector": ('[vector.x]\nbase = "tiny"\npath = "base"\n[merged.x]\nbase = "tiny"\nvectors = { x = 1 }\n', "vector 'x' is not verified", 'give [vector.x] a verify table, or say unverified = ["x"]'),
    "auto of unverified": ('[vector.x]\nbase = "tiny"\npath = "base"\n[merged.x]\nbase = "tiny"\nvectors = { x = "auto" }\nunverified = true\n', "'auto' needs a verified vector, and 'x' is not verified", ""),
    "unknown method": ('[merged.x]\nbase = "tiny"\nmethod = "tie"\nvectors = { voice = 1 }\n', "there is no merge method 'tie'", "methods are linear, slerp, nuslerp, task_arithmetic, ties, dare, della, breadcrumbs, model_stock, sce, karcher, iso_c, tsv_m, wudi; the nearest is 'ties'"),
    "coefficient": ('[merged.x]\nbase = "tiny"\nvectors = { voice = "much" }\n', "the coefficient of 'voice' is 'much', expected a number or 'auto'", "a coefficient is a number, 'auto', a list over depth, or a table of tensor patterns"),
    "infinite coefficient": ("[merged.x]\nbase = 'tiny'\nvectors = { voice = inf }\n", "the coefficient of 'voice' is inf, expected a number or 'auto'", "a coefficient is a number, 'auto', a list over depth, or a table of tensor patterns"),
    "no vectors": ("[merged.x]\nbase = 'tiny'\nvectors = {}\n", None, None),
    "one name twice": ('[vector.voice]\nbase = "tiny"\npath = "base"\n', "'voice' is a behaviour too, and both would make vector-voice", "rename one of the two"),
    "odd name": ('[base."a b"]\npath = "base"\n', "name 'a b' has characters other than letters, digits, '_' and '-'", ""),
    "later feature": ('[merged.x]\nbase = "tiny"\nvectors = { voice = 1 }\nevolve = { budget = 10 }\n', "merge method 'task_arithmetic' has no option 'evolve'", "options of 'task_arithmetic' are scale"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_is_named_with_its_way_out(declared: Project, name: str) -> None:
    added, text, hint = PROBLEMS[name]
    if name == "table that is none":
        assert "line 1  behavior  is a number, expected a table" in refused(declared, added)
        return
    found = refused(declared, GOOD + added)
    assert found.startswith("error: 1 problem in Buildfile.toml\n  line 1")
    if text is not None:
        assert text in found
        assert found.endswith(f"\nhint: {hint}\n" if hint else f"{text}\n")


def test_vectors_of_another_base_are_refused(declared: Project) -> None:
    checkpoint(declared.root / "other", {"w": [2.0]})
    text = '[base.other]\npath = "other"\n[vector.x]\nbase = "other"\npath = "base"\n[merged.x]\nbase = "tiny"\nvectors = { x = 1 }\nunverified = true\n'
    found = refused(declared, GOOD + text)
    assert "vector 'x' was taken from base-other, and this merge is on base-tiny" in found


def test_bad_rows_do_not_hide_problems_of_the_buildfile(declared: Project) -> None:
    declared.file("rows.jsonl").write_text("not json\n")
    found = refused(declared, GOOD.replace("vectors = { voice = 1.0 }", "vectors = { voice = 1.0 }\nscal = 2"))
    assert "has no option 'scal'" in found


def test_a_folder_as_examples_is_a_clear_error(declared: Project) -> None:
    declared.file("rows.jsonl").unlink()
    declared.file("rows.jsonl").mkdir()
    assert refused(declared, GOOD) == f"error: rows.jsonl is a folder, not a file\n  path  {declared.root}/rows.jsonl\n"


def test_a_row_of_an_unknown_shape_is_named_with_file_and_line(declared: Project) -> None:
    rows = ['{"prompt": "a", "completion": "b"}', "not json", '{"input": "a"}', "", '{"prompt": "a", "completion": 3}']
    declared.file("rows.jsonl").write_text("\n".join(rows))
    assert refused(declared, GOOD) == (
        f"error: 3 bad rows in {declared.root}/rows.jsonl\n"
        "  line 2  is not JSON: Expecting value: line 1 column 1 (char 0)\n"
        "  line 3  has the fields input\n"
        "  line 5  field 'completion' is a number, expected text or messages\n"
        "hint: a row has the fields text · messages · prompt + completion · prompt + chosen + rejected\n"
    )


def test_a_behaviour_without_rows_is_refused(declared: Project) -> None:
    declared.file("rows.jsonl").write_text("\n")
    assert refused(declared, GOOD) == (
        f"error: no rows in {declared.root}/rows.jsonl\n"
        "hint: one JSON object a line, with the fields text · messages · prompt + completion · prompt + chosen + rejected\n"
    )


BAD_ROWS = {
    '{"prompt": "a", "chosen": "b", "rejected": "b"}': "chosen and rejected are the same",
    '{"messages": [{"role": "user", "content": "a"}]}': "no message has the role 'assistant'",
    '{"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}': "prompt and completion must be all text or all messages",
    '{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "user", "content": "b"}]}': "an answer is one message with the role 'assistant'",
    '{"prompt": "a", "completion": ""}': "is empty",
    "[1]": "is a list, not an object",
    '{"text": "a\\ud800"}': "has half of a surrogate pair, which is no text",
}  # fmt: skip


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_row_that_means_nothing_is_refused(declared: Project, row: str) -> None:
    declared.file("rows.jsonl").write_text(row + "\n")
    assert f"  line 1  {BAD_ROWS[row]}\n" in refused(declared, GOOD)


def test_rows_of_two_shapes_are_refused(declared: Project) -> None:
    declared.file("rows.jsonl").write_text('{"text": "a"}\n{"prompt": "a", "completion": "b"}\n')
    assert "error: rows of 2 shapes" in refused(declared, GOOD)


def test_front_matter_that_is_no_yaml_is_named(declared: Project) -> None:
    declared.file("memory/bad.md").write_text("---\nid: [\n---\n")
    found = refused(declared, GOOD)
    assert found.startswith(f"error: {declared.root}/memory/bad.md has front matter that is not YAML\n  line ")


# what changes nothing, and its twins that do; `keys` are those of the first step, all that a plan knows before anything is built


def keys(project: Project) -> dict[str, str]:
    plan = project.build("-n", "--json", "base-tiny").json()
    return {name: one["key"] for name, one in plan["targets"].items()}


def test_comments_order_of_tables_and_names_leave_keys_alone(declared: Project) -> None:
    before = keys(declared)
    tables = GOOD.split("[")[1:]
    declared.buildfile("# a comment\n" + "".join("[" + table for table in reversed(tables)))
    assert keys(declared) == before
    declared.buildfile(GOOD.replace("tiny", "other"))
    found = declared.build("-n", "--json", "base-other").json()
    assert found["targets"]["base-other"]["key"] == before["base-tiny"]


def test_bytes_of_the_base_change_its_key(declared: Project) -> None:
    before = keys(declared)
    checkpoint(declared.root / "base", {"w": [2.0]})
    assert keys(declared) != before
