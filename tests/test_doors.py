"""Files of the user's: what belongs to a model is read and published, what leaves its folder or is not a file is an error at once."""

import ast
import json
import os
import socket
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy
import pytest

from buildsys import buildfile, files, memory
from buildsys.errors import BuildError
from buildsys.examples import rows
from buildsys.tensors import adapters, checkpoints, folders, tokens
from tests import hub
from tests.checkpoints import CONFIG, checkpoint, save, tokenizer
from tests.conftest import Project

BUILDFILE = '[base.one]\npath = "one"\n'
ROWS = "".join(json.dumps({"prompt": f"q{number}", "completion": "a"}) + "\n" for number in range(40))


@pytest.fixture
def declared(project: Project) -> Project:
    project.buildfile(BUILDFILE)
    checkpoint(project.root / "one", {"a": [1, 2]})
    return project


def test_a_link_that_leaves_the_folder_is_named_with_its_destination(declared: Project) -> None:
    declared.file("secret").write_text("{}")
    (declared.root / "one" / "generation_config.json").symlink_to("../secret")
    ran = declared.build("base-one")
    assert (ran.code, ran.stderr) == (
        2,
        "error: generation_config.json is a link that leaves its folder\n"
        f"  link         {declared.root}/one/generation_config.json\n"
        f"  destination  {declared.root}/secret\n"
        "hint: put a copy of the file into the folder\n",
    )


def test_what_is_not_part_of_a_model_is_neither_published_nor_exported(declared: Project) -> None:
    secret = declared.file("secret")
    secret.write_text("private")
    for name in ("license.txt", "notes.json", ".hidden.json", "pytorch_model.bin", "extra.jinja"):
        (declared.root / "one" / name).symlink_to(secret)
    (declared.root / "one" / "additional_chat_templates").mkdir()
    assert declared.build("base-one").code == 0
    assert sorted(os.listdir(declared.root / "cache/out/base-one")) == ["config.json", "model.safetensors"]
    assert declared.build("export", "base-one", "shipped").code == 0
    assert sorted(os.listdir(declared.root / "shipped")) == ["config.json", "model.safetensors"]


def test_what_somebody_put_into_an_output_is_not_exported(declared: Project) -> None:
    assert declared.build("base-one").code == 0
    (declared.root / "cache/out/base-one/chat_template.jinja").write_text("{{ 'evil' }}")
    declared.build("export", "base-one", "shipped")
    assert not (declared.root / "shipped" / "chat_template.jinja").exists()


def test_a_link_inside_the_folder_is_followed(declared: Project) -> None:
    folder = declared.root / "one"
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    ran = declared.build("base-one")
    assert ran.code == 0, ran.stderr


def in_hub_cache(root: Path, blob: str) -> Path:
    """A snapshot as the Hub's cache has it, whose weights are a link to a blob."""
    repository = root / "hub" / "models--org--name"
    snapshot = checkpoint(repository / "snapshots" / ("c" * 40), {"a": [1, 2]})
    (repository / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(repository / "blobs" / ("a" * 64))
    (snapshot / "model.safetensors").symlink_to(blob)
    return snapshot


def test_the_hub_caches_own_links_are_followed(declared: Project) -> None:
    snapshot = hub.listed(in_hub_cache(declared.root, f"../../blobs/{'a' * 64}"))
    declared.buildfile(f'[base.one]\npath = "{snapshot}"\n[base.hub]\nhub = "org/name"\nrevision = "{"c" * 40}"\n')
    ran = declared.build("base-*", env={"HF_HUB_CACHE": str(declared.root / "hub"), "HF_HUB_OFFLINE": "1"})
    assert ran.code == 0, ran.stderr


@pytest.mark.parametrize("blob", [f"../../../models--org--name/blobs/{'a' * 64}", "../../blobs/other", f"../../blobs/{'b' * 64}"])
def test_other_links_out_of_a_snapshot_are_not(declared: Project, blob: str) -> None:
    snapshot = in_hub_cache(declared.root, blob)
    blobs = snapshot.parents[1] / "blobs"
    (blobs / "other").write_bytes((blobs / ("a" * 64)).read_bytes())
    (blobs / ("b" * 64)).symlink_to("other")
    with pytest.raises(BuildError, match="is a link that leaves its folder"):
        folders.check(snapshot, ["model.safetensors"])


SHARDS = [
    "/etc/model.safetensors",
    "../one/model.safetensors",
    "sub/model.safetensors",
    ".model.safetensors",
    "optimizer.safetensors",
    "",
    5,
]


@pytest.mark.parametrize("shard", SHARDS)
def test_a_shard_that_is_not_a_file_of_the_model_is_refused_by_name(declared: Project, shard: str | int) -> None:
    index = declared.root / "one" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(BuildError) as caught:
        checkpoints.weight_files(index.parent)
    assert str(caught.value) == (
        "error: the index names a shard that is not a file of the model\n"
        f"  file   {index}\n"
        f"  shard  {shard!r}\n"
        "hint: shards are files beside the index, such as model-00001-of-00002.safetensors"
    )


def test_shards_keep_their_names_and_are_all_hashed(declared: Project) -> None:
    folder = declared.root / "one"
    (folder / "model.safetensors").unlink()
    names = {"a": "model-00001-of-000002.safetensors", "b": "model.safetensors-00002-of-00002.safetensors"}
    for tensor, name in names.items():
        save(folder, {tensor: numpy.ones(2, numpy.float32)}, file=name.removesuffix(".safetensors"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert declared.build("base-one").code == 0
    save(folder, {"b": numpy.zeros(2, numpy.float32)}, file="model.safetensors-00002-of-00002")
    assert declared.build("status").stdout == "stale  base-one  folder changed\n"


def test_safetensors_files_beside_the_weights_are_not_part_of_the_model(declared: Project) -> None:
    for name in ("extra", "model-00001-of-00001"):
        save(declared.root / "one", {"b": numpy.ones(2, numpy.float32)}, file=name)
    assert declared.build("base-one").code == 0
    assert sorted(os.listdir(declared.root / "cache/out/base-one")) == ["config.json", "model.safetensors"]
    assert declared.build("export", "base-one", "shipped").code == 0
    assert sorted(os.listdir(declared.root / "shipped")) == ["config.json", "model.safetensors"]
    save(declared.root / "one", {"b": numpy.zeros(2, numpy.float32)}, file="extra")
    assert declared.build("status").stdout == "fresh  base-one\n"


def test_a_folder_with_one_file_of_weights_and_shards_is_refused(declared: Project) -> None:
    folder = declared.root / "one"
    save(folder, {"a": numpy.ones(2, numpy.float32)}, file="model-00001-of-00001")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    ran = declared.build("base-one")
    assert (ran.code, ran.stderr) == (
        2,
        "error: the folder has two models\n"
        f"  folder  {folder}\n"
        "  first   model.safetensors\n"
        "  second  the shards of model.safetensors.index.json\n"
        "hint: remove the one that is not meant\n",
    )
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    assert declared.build("base-one").code == 0
    assert "model-00001-of-00001.safetensors" not in os.listdir(declared.root / "cache/out/base-one")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vocab.txt", "qwen.tiktoken"])
def test_a_model_file_that_is_no_weights_and_large_is_refused_before_it_is_hashed(declared: Project, name: str) -> None:
    file = declared.root / "one" / name
    with open(file, "wb") as sparse:
        sparse.truncate(300 << 30)
    ran = declared.build("status")
    facts = f"  file   {file}\n  has    322,122,547,200 bytes\n  limit  200,000,000 bytes\n"
    assert (ran.code, ran.stderr) == (2, f"error: {name} is too large\n{facts}")


def test_large_weights_that_their_header_does_not_account_for_are_refused_before_they_are_hashed(declared: Project) -> None:
    file = declared.root / "one" / "model.safetensors"
    size = file.stat().st_size
    os.truncate(file, 300 << 30)
    ran = declared.build("status")
    facts = f"  file      {file}\n  has       322,122,547,200 bytes\n  expected  {size} bytes\n"
    assert (ran.code, ran.stderr) == (2, f"error: the checkpoint is truncated\n{facts}hint: download or copy it again\n")


def test_a_corpus_without_an_end_is_refused(project: Project) -> None:
    (project.root / "c.txt").symlink_to("/proc/self/pagemap")
    project.buildfile('[base.one]\npretrain = { corpus = "c.txt", max_steps = 1 }\n')
    ran = project.build("status")
    assert (ran.code, ran.stderr) == (
        2,
        f"error: c.txt is made up by the system, not a file on a disk\n  path  {project.root}/c.txt\n"
        "hint: put a copy of what it says into a file\n",
    )


def test_a_judge_beyond_its_limit_is_refused(declared: Project) -> None:
    declared.file("rows.jsonl").write_text(ROWS)
    declared.file("eval.jsonl").write_text(ROWS.replace("q", "other "))
    with open(declared.root / "judge.py", "wb") as sparse:
        sparse.truncate(300 << 30)
    verify = 'verify = { rows = "eval.jsonl", judge = "judge:score" }'
    declared.buildfile(f'{BUILDFILE}[behavior.b]\nbase = "one"\nexamples = "rows.jsonl"\n{verify}\n')
    ran = declared.build("status")
    assert "judge.py is too large" in ran.stderr
    assert "limit  1,000,000 bytes" in ran.stderr


def test_a_digest_reads_no_more_than_a_file_says_it_has(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not a file on a disk"):
        files.digest("/proc/self/pagemap")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        files.digest(tmp_path / "pipe")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a named pipe": (_pipe, "is a named pipe, not a file"),
    "a socket": (_socket, "is a socket, not a file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
    "a folder": (Path.mkdir, "is a folder, not a file"),
    "a dangling link": (lambda path: path.symlink_to("nothing"), "is a link to a file that does not exist"),
}
PLACES = {
    "one/config.json": BUILDFILE,
    "lora/adapter_model.safetensors": f'{BUILDFILE}[vector.v]\nadapter = "lora"\n',
    "rows.jsonl": f'{BUILDFILE}[behavior.b]\nexamples = "rows.jsonl"\n',
    "corpus.txt": '[base.made]\npretrain = { corpus = "corpus.txt" }\n',
    "memory/node.md": f'[graph]\nnodes = "memory/node.md"\n{BUILDFILE}',
    "judge.py": f'{BUILDFILE}[behavior.b]\nexamples = "good.jsonl"\nverify = {{ rows = "eval.jsonl", judge = "judge:f" }}\n',
}


ABSENT = {  # what a link to nothing is called where the Buildfile names it
    "rows.jsonl": "'rows.jsonl' is not there",
    "judge.py": "'judge.py' is not there",
    "corpus.txt": "no file matches 'corpus.txt'",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_a_regular_file_is_an_error_at_once(declared: Project, place: str, kind: str) -> None:
    make, message = KINDS[kind]
    if kind == "a dangling link":
        message = ABSENT.get(place, message)
    if kind == "a device" and "/" in place and not place.startswith("memory"):
        message = "is a link that leaves its folder"
    declared.file("good.jsonl").write_text(ROWS)
    declared.file("eval.jsonl").write_text(ROWS.replace("q", "r"))
    declared.file("lora/adapter_config.json").write_text('{"peft_type": "LORA"}')
    declared.file(place).unlink(missing_ok=True)
    make(declared.file(place))
    declared.buildfile(PLACES[place])
    assert message in planned(declared)


def planned(project: Project) -> str:
    """What a plan of all targets says, without starting the command."""
    from buildsys import plan as planning
    from buildsys.cli import project as projects

    try:
        opened = projects.opened(str(project.root))
        planning.make(opened.graph, opened.cache, opened.observer, ["*"])
    except BuildError as error:
        return str(error)
    return "no error"


def test_a_named_pipe_among_examples_is_named_by_the_command(declared: Project) -> None:
    _pipe(declared.file("rows.jsonl"))
    declared.buildfile(PLACES["rows.jsonl"])
    ran = declared.build("status")
    assert (ran.code, ran.stderr) == (2, f"error: rows.jsonl is a named pipe, not a file\n  path  {declared.root}/rows.jsonl\n")


def test_every_file_that_a_tokenizer_class_of_transformers_names_is_decided_on() -> None:
    """A new release may read another file: then it belongs to a model, or a reason stands here why it does not."""
    spec = find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    names: set[str] = set()
    for source in Path(spec.origin).parent.glob("models/*/tokenization_*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Assign) and any(isinstance(name, ast.Name) and name.id == "VOCAB_FILES_NAMES" for name in node.targets):
                names |= {value.value for value in ast.walk(node.value) if isinstance(value, ast.Constant) and "." in str(value.value)}
    assert len(names) > 15
    assert sorted(names - folders.MODEL_FILES) == []


def test_every_file_of_an_ordinary_model_belongs_to_it() -> None:
    names = [
        "added_tokens.json", "chat_template.jinja", "config.json", "generation_config.json", "merges.txt", "model-00001-of-00002.safetensors",
        "model.safetensors.index.json", "qwen.tiktoken", "special_tokens_map.json", "tokenizer.json", "tokenizer.model",
        "tokenizer_config.json", "vocab.json",
    ]  # fmt: skip
    assert folders.model_files(names) == names


LARGE = {
    "max_seq_len": 10**8,
    "n_positions": 60_000_000,
    "num_hidden_layers": 10**9,
    "hidden_size": 10**9,
    "vocab_size": 10**12,
    "num_experts": 10**6,
}


@pytest.mark.parametrize("name", LARGE)
def test_a_configuration_beyond_all_size_names_its_limit(declared: Project, name: str) -> None:
    checkpoint(declared.root / "one", {"a": [1]}, {**CONFIG, "text_config": {name: LARGE[name]}})
    ran = declared.build("base-one", "-q")
    limit = "67,108,864" if name.endswith("size") else "10,000" if name.startswith("num") else "16,777,216"
    folder = declared.root / "one"
    facts = [("folder", str(folder)), (name, f"{LARGE[name]:,}"), ("limit", limit)]
    width = max(len(head) for head, _ in facts)
    expected = "".join(f"  {head:{width}}  {text}\n" for head, text in facts)
    assert ran.stderr.startswith(f"error: base-one: config.json describes a model that is too large\n{expected[:40]}")
    assert f"{limit}\n" in ran.stderr


def test_a_configuration_with_more_layers_than_tensors_is_refused_before_a_model_is_made(tmp_path: Path) -> None:
    from buildsys.tensors import models

    folder = checkpoint(tmp_path, {"a": [1]}, {**CONFIG, "num_hidden_layers": 9000})
    with pytest.raises(BuildError) as caught:
        models.load(folder)
    assert caught.value.headline == "config.json has more layers than the weights have tensors"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"hidden_size": 2**20}, [("hidden_size", "1,048,576")]),
        ({"text_config": {"vocab_size": 2**25}}, [("vocab_size", "33,554,432")]),
        ({"num_attention_heads": 100, "head_dim": 1000}, [("num_attention_heads × head_dim", "100,000")]),
    ],
)
def test_a_configuration_for_a_larger_model_is_refused_before_one_is_made(
    tmp_path: Path, settings: dict[str, object], named: list[tuple[str, str]]
) -> None:
    folder = checkpoint(tmp_path, {"a": [1, 2]}, {**CONFIG, **settings})
    with pytest.raises(BuildError) as caught:
        checkpoints.checked(folder)
    assert caught.value.headline == "config.json is for a larger model than the weights are of"
    assert list(caught.value.facts) == [("folder", str(folder)), *named, ("longest side of a tensor", "2")]


@pytest.mark.parametrize("key", ["n_positions", "max_position_embeddings", "n_ctx"])
@pytest.mark.parametrize("stored", [True, False])
def test_more_learned_positions_than_are_stored_are_refused_before_a_model_is_made(tmp_path: Path, key: str, stored: bool) -> None:
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": 32, key: 6_000_000}
    tensors = {"transformer.wte.weight": numpy.ones((40, 4), numpy.float32)}
    if stored:
        tensors["transformer.wpe.weight"] = numpy.ones((32, 4), numpy.float32)
    folder = save(tmp_path, tensors, config)
    with pytest.raises(BuildError) as caught:
        checkpoints.checked(folder)
    assert caught.value.headline == "config.json is for a larger model than the weights are of"
    assert list(caught.value.facts) == [("folder", str(folder)), (key, "6,000,000"), ("stored positions", "32" if stored else "0")]


def test_as_many_positions_as_are_stored_pass_and_computed_ones_are_not_compared(tmp_path: Path) -> None:
    tensors = {"transformer.wpe.weight": numpy.ones((32, 4), numpy.float32)}
    checkpoints.checked(save(tmp_path / "learned", tensors, {**CONFIG, "model_type": "gpt2", "n_positions": 32}))
    checkpoints.checked(save(tmp_path / "computed", {"a": numpy.ones(2, numpy.float32)}, {**CONFIG, "max_position_embeddings": 10_485_760}))


TEMPLATES = {
    "syntax": ("{% for %}", "TemplateSyntaxError: "),
    "raises": ("{{ raise_exception('no system turns') }}", "TemplateError: no system turns"),
    "undefined": ("{{ messages.a.b }}", "UndefinedError: "),
    "division": ("{{ 1 // 0 }}", "ZeroDivisionError: "),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: "),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> object:
    from buildsys.examples import encode

    folder = checkpoint(tmp_path_factory.mktemp("plain"), {"a": [1]})
    return encode.load_tokenizer(str(tokenizer(folder, ["a", "word"])))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_broken_chat_template_fails_in_our_words(plain: object, name: str) -> None:
    from buildsys.examples import encode

    plain.chat_template, reason = TEMPLATES[name]  # type: ignore[attr-defined]
    with pytest.raises(BuildError) as caught:
        encode.render(plain, [{"role": "user", "content": "a"}])  # type: ignore[arg-type]
    assert caught.value.headline == "the chat template cannot render a row"
    assert caught.value.facts[0][1].startswith(reason)


def test_a_chat_template_without_end_is_interrupted(plain: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from buildsys.examples import encode

    monkeypatch.setattr(encode, "_TEMPLATE_SECONDS", 1)
    plain.chat_template = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"  # type: ignore[attr-defined]
    with pytest.raises(BuildError) as caught:
        encode.render(plain, [{"role": "user", "content": "a"}])  # type: ignore[arg-type]
    assert caught.value.headline == "the chat template takes more than 1 seconds for a row"


def test_a_pattern_that_would_not_end_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    from buildsys.evaluation import metrics

    monkeypatch.setattr(metrics, "_PATTERN_SECONDS", 1)
    metric = metrics.Metric("regex", pattern="(a+)+b")
    with pytest.raises(BuildError) as caught:
        metric.of({"numbers": [{"texts": ["a" * 60]}]}, 0)
    assert caught.value.headline == "the regex takes more than 1 seconds for a row"


@pytest.mark.parametrize("text", ["{", '{"version": "1.0"}', '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'])
def test_a_tokenizer_that_cannot_be_loaded_says_so(tmp_path: Path, text: str) -> None:
    from buildsys.examples import encode

    folder = tokenizer(checkpoint(tmp_path, {"a": [1]}), ["a"])
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(BuildError) as caught:
        encode.load_tokenizer(str(folder))
    assert caught.value.headline in ("the base has no tokenizer that can be loaded", "tokenizer.json cannot be read")


def header_of(entry: object) -> bytes:
    return json.dumps({"w": entry}).encode()


FOLDER = Path("m")
NOT_SAFETENSORS = "error: the file is not a safetensors file\n  file    m\n  reason  "
NODE = "---\nid: one\nlinks: {}\n---\n"
WORDS: dict[str, tuple[Callable[[], object], str]] = {
    "dtype that is a list": (
        lambda: checkpoints.parsed_header(header_of({"dtype": [0], "shape": [1], "data_offsets": [0, 1]}), 0, FOLDER),
        f"{NOT_SAFETENSORS}tensor 'w' lacks a dtype, a shape or two data_offsets",
    ),
    "side that is a list": (
        lambda: checkpoints.parsed_header(header_of({"dtype": "U8", "shape": [[0], 2**31], "data_offsets": [0, 1]}), 0, FOLDER),
        f"{NOT_SAFETENSORS}tensor 'w' has [0], expected a size of 0 or more",
    ),
    "name twice": (
        lambda: checkpoints.parsed_header(b'{"w": 1, "w": 2}', 0, FOLDER),
        f"{NOT_SAFETENSORS}its header has the key 'w' twice",
    ),
    "header of depth 2,000": (
        lambda: checkpoints.parsed_header(b'{"w": ' + b"[" * 2000 + b"]" * 2000 + b"}", 0, FOLDER),
        f"{NOT_SAFETENSORS}its header is nested deeper than 64 levels",
    ),
    "added token without an id": (
        lambda: tokens.parsed(b'{"added_tokens": [{"content": "<x>"}]}', "", FOLDER),
        "error: m cannot be read\n  file            m\n"
        "  added_tokens.0  does not have a content and an id from 0 to 67,108,863\nhint: download it again",
    ),
    "infinity in a tokenizer": (
        lambda: tokens.parsed(b'{"added_tokens": [{"id": Infinity}]}', "", FOLDER),
        "error: m cannot be read\n  file    m\n  reason  it has Infinity, which is not JSON\nhint: download it again",
    ),
    "text for a number": (
        lambda: adapters.parsed_config(b'{"peft_type": "LORA", "lora_alpha": "a"}', FOLDER),
        "error: adapter_config.json cannot be read\n  folder      m\n  lora_alpha  should be a valid number",
    ),
    "open group": (
        lambda: adapters.parsed_config(b'{"peft_type": "LORA", "alpha_pattern": {"(": 2}}', FOLDER),
        "error: the adapter has a pattern that cannot be used\n  folder         m\n  alpha_pattern  (\n"
        "  reason         error: unclosed group\n"
        "hint: merge it into its base with PEFT and name the merged model by path",
    ),
    "timestamp in a node": (
        lambda: memory.parsed(NODE.format("!!timestamp x").encode(), "one.md"),
        "error: one.md: 'links' is not a list of names\nhint: links: [first, second]",
    ),
    "node of depth 2,000": (
        lambda: memory.parsed(NODE.format("[" * 2000).encode(), "one.md"),
        "error: one.md has front matter with more than 200 lists and tables",
    ),
    "half of a pair in a node": (
        lambda: memory.parsed(NODE.format('["\\uD800"]').encode(), "one.md"),
        "error: one.md has a name with characters that cannot be shown\n  name  '\\ud800'",
    ),
    "row of 5,000 digits": (
        lambda: rows.parse(b'{"text": ' + b"9" * 5000 + b"}", "rows.jsonl"),
        "error: 1 bad row in rows.jsonl\n  line 1  has a number of more than 4,300 digits\n"
        "hint: a row has the fields text · messages · prompt + completion · prompt + chosen + rejected",
    ),
    "Buildfile of 5,000 digits": (
        lambda: buildfile.parsed(b"x = " + b"9" * 5000, FOLDER),
        "error: m has a number or a date that cannot be read\n"
        "  reason  Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits",
    ),
    "Buildfile of hexadecimal digits": (
        lambda: buildfile.parsed(b"x = 0x" + b"f" * 5000, FOLDER),
        "error: m has a number of more than 64 bits\n  begins with  0xffffffffffffffffff",
    ),
    "Buildfile of depth 400": (
        lambda: buildfile.parsed(b"x = " + b"[" * 400 + b"]" * 400, FOLDER),
        "error: m is nested deeper than 32 levels",
    ),
    "NUL in a path": (
        lambda: buildfile.parsed(b'[base.t]\npath = "\\u0000"\n', FOLDER),
        "error: m has a text with a NUL character\n  text  '\\x00'",
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_bad_input_gets_our_own_words(name: str) -> None:
    parse, message = WORDS[name]
    with pytest.raises(BuildError) as caught:
        parse()
    assert str(caught.value) == message


def test_a_pattern_for_the_whole_disk_is_interrupted(declared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from buildsys.store import observe

    monkeypatch.setattr(observe, "_GLOB_SECONDS", 0.2)
    for name in "abcdef":  # links in a circle: every way through them is another path
        declared.file(f"memory/{name}").symlink_to(".")
    declared.buildfile(f'[graph]\nnodes = "memory/**/*.md"\n{BUILDFILE}')
    assert planned(declared) == (
        "error: a pattern goes through too many folders\n  pattern  memory/**/*.md\n  limit    0.2 seconds\n"
        "hint: begin it with the folder that holds the files"
    )


def test_a_huge_regular_expression_is_a_problem_of_its_line(declared: Project) -> None:
    declared.file("rows.jsonl").write_text(ROWS)
    declared.buildfile(f'{BUILDFILE}[behavior.b]\nexamples = "rows.jsonl"\nverify = {{ regex = "a{{99999999999}}" }}\n')
    assert planned(declared) == (
        "error: 1 problem in Buildfile.toml\n  line 5  behavior.b  regex is not a pattern: the repetition number is too large"
    )


def test_five_hundred_problems_have_their_lines(tmp_path: Path) -> None:
    text = "".join(f'[behavior.b{number}]\nexamples = "rows.jsonl"\nbsae = "one"\n' for number in range(500))
    file = buildfile.parsed(text.encode(), tmp_path / "Buildfile.toml")
    started = time.process_time()
    with pytest.raises(BuildError) as caught:
        file.check()
    assert time.process_time() - started < 5  # each read the whole file again once
    assert [row[:2] for row in caught.value.facts] == [(f"line {3 * number + 3}", f"behavior.b{number}") for number in range(500)]


def test_a_header_of_a_hundred_thousand_tensors_is_read(tmp_path: Path) -> None:
    names = {f"w{number:06}": {"dtype": "U8", "shape": [2, 1], "data_offsets": [2 * number, 2 * number + 2]} for number in range(100_000)}
    data = json.dumps(names).encode()
    assert len(checkpoints.parsed_header(data, 8 + len(data) + 200_000, tmp_path)) == 100_000


def test_a_file_beyond_its_limit_names_the_limit(declared: Project) -> None:
    file = declared.root / "one" / "config.json"
    with open(file, "r+b") as data:
        data.truncate(10_000_001)
    ran = declared.build("base-one", "-q")
    assert ran.stderr.startswith(
        f"error: base-one: config.json is too large\n  file   {file}\n  has    10,000,001 bytes\n  limit  10,000,000 bytes\n"
    )
