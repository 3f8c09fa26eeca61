"""Files of the user's: what belongs to a model is read and published, what leaves its folder or is not a file is an error at once."""

import ast
import json
import os
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy
import pytest

from buildsys.errors import BuildError
from buildsys.tensors import checkpoints, folders
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
    snapshot = in_hub_cache(declared.root, f"../../blobs/{'a' * 64}")
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


LARGE = {"num_hidden_layers": 10**9, "hidden_size": 10**9, "vocab_size": 10**12, "num_experts": 10**6}


@pytest.mark.parametrize("name", LARGE)
def test_a_configuration_beyond_all_size_names_its_limit(declared: Project, name: str) -> None:
    checkpoint(declared.root / "one", {"a": [1]}, {**CONFIG, "text_config": {name: LARGE[name]}})
    ran = declared.build("base-one", "-q")
    limit = "67,108,864" if name.endswith("size") else "10,000"
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
    assert caught.value.headline == "the base has no tokenizer that can be loaded"
