"""What a terminal is given: names and values from outside cannot steer it, hide or reorder other text, and JSON stays JSON."""

import io
import json
import os
import struct
import unicodedata
from pathlib import Path

import pytest

from buildsys.cli.watch import Live
from buildsys.errors import BuildError
from buildsys.graph import Step
from buildsys.terminal import Printable, json_line, printable
from tests.checkpoints import checkpoint, tokenizer
from tests.conftest import Project, Ran

HOSTILE = "\x1b[2J\x07\x7f\x9b\u202e\u2066\u200b\u2028\n\t\r"
SHOWN = r"\x1b[2J\x07\x7f\x9b\u202e\u2066\u200b\u2028\n\t\r"
IN_TOML = '"\\u001b[2J\\u0007\\u007f\\u009b\\u202e\\u2066\\u200b\\u2028\\n\\t\\r"'


def steering(text: str) -> set[str]:
    """The characters of a text that a terminal would act on, line breaks apart."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")}


def safe(ran: Ran) -> Ran:
    assert steering(ran.stdout + ran.stderr) == set()
    return ran


@pytest.fixture
def vector(project: Project) -> Project:
    project.buildfile('[build]\ndefault = ["vector-a"]\n[base.b]\npath = "b"\n[vector.a]\npath = "a"\n')
    checkpoint(project.root / "b", {"w": [1, 2]})
    checkpoint(project.root / "a", {"w": [2, 2]})
    return project


def test_every_character_that_unicode_does_not_call_graphic_is_escaped_and_every_other_one_stays() -> None:
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        graphic = category[0] in "LMNPS" or category == "Zs"
        shown = printable(chr(code))
        assert shown.isascii() or shown == chr(code)
        assert graphic or shown != chr(code)
    plain = "é → τ · 日本語 Ελλάδα עברית العربية \u00a0\u3000 ½ ✓ 👍🏽 \\ \" '"
    assert printable(plain) == plain


def test_what_is_printable_is_printed_as_it_is_a_second_time() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable(SHOWN) == SHOWN


def test_joiners_stay_where_they_join() -> None:
    for text in ("👩\u200d❤\ufe0f\u200d👨", "🏳\ufe0f\u200d🌈", "می\u200cخواهم", "क्\u200dष"):
        assert printable(text) == text
    assert printable("pay\u200dpal \u200c a\ufe0f b\u200d👍") == r"pay\u200dpal \u200c a\ufe0f b\u200d" + "👍"


def test_letters_without_ink_and_bytes_that_are_not_utf8_are_escaped() -> None:
    assert printable("a\u3164b\u115f\u034f\U000e0100") == r"a\u3164b\u115f\u034f\U000e0100"
    assert printable(os.fsdecode(b"r\xff.jsonl")) == r"r\xff.jsonl"
    assert printable("\ud800\ue000\U000e0041") == r"\ud800\ue000\U000e0041"


def test_json_escapes_the_same_and_gives_back_every_value() -> None:
    data = {HOSTILE: [HOSTILE, "é\ud800x\udcff\U000e0041", 1.5, None, True]}
    for encoding in ("utf-8", "UTF8", "ascii", "iso8859-1"):
        line = json_line(data, encoding)
        assert steering(line) == set()
        assert "\n" not in line
        assert encoding in ("utf-8", "UTF8") or line.isascii()
        assert json.loads(line) == data
    assert json_line({"loss": float("nan"), "rows": (float("inf"), 1)}, "utf-8") == '{"loss": null, "rows": [null, 1]}'


def test_an_error_has_each_name_in_its_own_line_and_cell() -> None:
    error = BuildError(f"no {HOSTILE}", [("file", HOSTILE, "x"), (HOSTILE, "y")], f"did you mean {HOSTILE}?")
    width = len(SHOWN)
    assert str(error) == (f"error: no {SHOWN}\n  {'file'.ljust(width)}  {SHOWN}  x\n  {SHOWN}  y\nhint: did you mean {SHOWN}?")


def test_what_a_library_writes_is_escaped_and_keeps_its_lines() -> None:
    stream = io.StringIO()
    print(f"one\n\ttwo {HOSTILE[:4]}", file=Printable(stream))
    assert stream.getvalue() == "one\n\ttwo \\x1b[2J\n"


def test_progress_on_a_terminal_shows_names_as_they_are_not_as_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.__stderr__", stream)
    step = Step(f"[red]:smile: {HOSTILE}", "merged-x", "merge")
    with Live() as live:
        live.started(step)
        live.progress(step, f"[bold] {HOSTILE}", 0.5)
        live.noted(step, HOSTILE)
        live.ended(step, 1.0)
        live.failed(step, BuildError("x"))
    assert f"✓ [red]:smile: {SHOWN} 1.0 s\n✗ [red]:smile: {SHOWN}\n" in "\n".join(map(str.rstrip, stream.getvalue().split("\n")))
    assert steering(stream.getvalue()) == set()


QUOTED = 'a]<b>|"\\&`%'  # nothing that steers a terminal, and all that steers a chart


@pytest.fixture
def nodes(vector: Project) -> Project:
    name = json.dumps(QUOTED)
    vector.buildfile('[graph]\nnodes = "memory/*.md"\n' + (vector.root / "Buildfile.toml").read_text() + f"node = {name}\n")
    vector.file("memory/one.md").write_text(f"---\nid: {name}\nlinks: [other, {name}]\n---\n")
    vector.file("memory/two.md").write_text("---\nid: other\n---\n")
    return vector


def test_names_of_the_memory_graph_that_steer_a_terminal_are_refused(vector: Project) -> None:
    vector.buildfile('[graph]\nnodes = "memory/*.md"\n' + (vector.root / "Buildfile.toml").read_text())
    vector.file("memory/one.md").write_text(f"---\nid: {IN_TOML}\n---\n")
    ran = safe(vector.build("graph"))
    path = vector.root / "memory/one.md"
    assert (ran.code, ran.stderr) == (2, f"error: {path} has a name with characters that cannot be shown\n  name  '{SHOWN}'\n")


def test_names_of_the_memory_graph_are_shown_as_they_are(nodes: Project) -> None:
    ran = safe(nodes.build("graph"))
    assert ran.stdout.splitlines()[:2] == [f"{QUOTED}  links other, {QUOTED}", "  a → vector-a"]
    assert ran.stderr == "warning: node 'other' has no vector\n"


def test_names_of_the_memory_graph_are_quoted_as_mermaid_asks(nodes: Project) -> None:
    lines = safe(nodes.build("graph", "--format", "mermaid")).stdout.splitlines()
    assert lines[1] == '  n0(["a#93;#60;b#62;#124;#34;#92;#38;#96;#37;"])'


def test_names_of_the_memory_graph_are_quoted_as_dot_asks(nodes: Project) -> None:
    lines = safe(nodes.build("graph", "--format", "dot")).stdout.splitlines()
    assert lines[2] == r'  "node a]<b>|\"\\&amp;`%" [label="a]<b>|\"\\&amp;`%", shape=ellipse];'


def test_names_of_the_memory_graph_come_back_from_json(nodes: Project) -> None:
    found = safe(nodes.build("graph", "--json")).json()
    assert list(found["nodes"]) == [QUOTED, "other"]
    assert found["targets"]["vector-a"]["node"] == QUOTED


def test_a_line_of_a_buildfile_that_is_not_toml_is_escaped(project: Project) -> None:
    project.buildfile('[build]\ndefault = "\u202eevil\u2066" oops\x1b[31m\n')
    ran = safe(project.build("status"))
    assert ran.stderr.splitlines()[:2] == [
        "error: Buildfile.toml is not valid TOML",
        r'  line 2  default = "\u202eevil\u2066" oops\x1b[31m  Expected newline or end of document after a statement',
    ]


def test_files_tables_values_and_control_sets_of_a_buildfile_are_escaped(project: Project) -> None:
    checkpoint(project.root / "b", {"w": [1, 2]})
    project.buildfile(
        f"""[build]
default = [{IN_TOML}]
[base.b]
path = "b"
[base.c]
path = {IN_TOML}
{IN_TOML} = 1
[vector.{IN_TOML}]
path = "a"
[vector.a]
path = "b"
dtype = {IN_TOML}
[vector.v]
path = "b"
node = {IN_TOML}
base = {IN_TOML}
[merged.m]
base = "b"
method = {IN_TOML}
vectors = {{ {IN_TOML} = 1.0 }}
unverified = true
checks = {{ control = {{ {IN_TOML} = {{ rows = {IN_TOML} }} }}, max_forgetting = {{ {IN_TOML} = 0.1 }} }}
"""
    )
    ran = safe(project.build("status"))
    assert ran.code == 2
    assert ran.stderr.count(r"\x1b[2J") >= 8
    assert len(ran.stderr.splitlines()) == 2 + int(ran.stderr.split()[1])  # a headline, a line for each problem, a hint


def test_names_of_tensors_are_escaped(vector: Project) -> None:
    checkpoint(vector.root / "b", {f"w{HOSTILE}": [1, 2]})
    checkpoint(vector.root / "a", {f"w{HOSTILE}": [1, 2, 3]})
    ran = safe(vector.build())
    assert ran.code == 1
    assert rf"w{SHOWN}" in ran.stderr


def test_the_dtype_of_a_header_is_escaped(vector: Project) -> None:
    header = json.dumps({"w": {"dtype": HOSTILE, "shape": [2], "data_offsets": [0, 8]}}).encode()
    (vector.root / "a" / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    ran = safe(vector.build())
    assert ran.code == 1
    assert SHOWN in ran.stderr


def test_tokens_are_escaped(vector: Project) -> None:
    tokenizer(vector.root / "b", ["<unk>", HOSTILE, "x"])
    tokenizer(vector.root / "a", ["<unk>", f"y{HOSTILE}", "x"])
    ran = safe(vector.build())
    assert ran.code == 1
    assert r"\x1b[2J" in ran.stderr


def test_names_on_the_command_line_are_escaped(vector: Project) -> None:
    for arguments in ((HOSTILE,), ("why", HOSTILE), ("-C", HOSTILE, "list"), (f"--{HOSTILE}",), ("sample", "base-b", "--prompt", HOSTILE)):
        assert safe(vector.build(*arguments)).code in (1, 2)


def test_a_record_of_nothing_to_do_cannot_steer_the_terminal(vector: Project) -> None:
    vector.build()
    (record,) = (vector.root / "cache" / "fresh").iterdir()
    record.write_text(record.read_text().replace("up to date", "up\x1b[2J to date"))
    safe(vector.build())


def test_a_log_has_what_was_said_as_it_was_said(vector: Project) -> None:
    """A log is a file of bytes that a pager shows."""
    checkpoint(vector.root / "a", {"w\u00e9": [1, 2]})
    ran = vector.build("-k", "--json")
    log = Path(ran.json()["targets"]["vector-a"]["log"])
    assert "w\u00e9" in log.read_text()


@pytest.mark.slow
def test_a_models_words_keep_their_lines_and_nothing_else(project: Project) -> None:
    """Every token of this model is one that steers a terminal."""
    from tests.checkpoints import tiny

    project.buildfile('[base.b]\npath = "b"\n')
    tiny("llama").save_pretrained(project.root / "b")
    tokenizer(project.root / "b", ["x", *(f"a\n\x1b[{row}m" for row in range(39))])
    assert project.build("base-b").code == 0
    ran = safe(project.build("sample", "base-b", "--prompt", "x", "--max-new-tokens", "3"))
    assert (ran.code, len(ran.stdout.splitlines())) == (0, 4)
    found = project.build("sample", "base-b", "--prompt", "x", "--max-new-tokens", "3", "--json").json()
    assert printable(found["text"], keep="\n\t") + "\n" == ran.stdout
