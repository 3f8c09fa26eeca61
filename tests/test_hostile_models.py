"""What a model's files ask of libraries in Rust and of templates ends in our words: no panic, no memory without end."""

import json
from pathlib import Path
from typing import Any

import pytest

from buildsys.errors import BuildError
from buildsys.examples import encode
from buildsys.tensors import tokens
from tests.checkpoints import tiny, tokenizer
from tests.conftest import Project

WORDS = [f"w{i}" for i in range(40)]
PANICS = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
ROWS = "".join(json.dumps({"prompt": "x" * 60, "completion": f" w{i}"}) + "\n" for i in range(40))
HINT = "hint: training and verification need tokenizer.json (or its kin) beside the weights; merging does not\n"


def edit(file: Path, changes: dict[str, Any]) -> None:
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.exists() else {}), **changes}))


@pytest.fixture
def based(project: Project) -> Project:
    tiny("llama").save_pretrained(project.root / "b")
    tokenizer(project.root / "b", WORDS)
    project.file("rows.jsonl").write_text(ROWS)
    project.buildfile('[base.b]\npath = "b"\n[behavior.x]\nbase = "b"\nexamples = "rows.jsonl"\ntrain = { max_steps = 1 }\n')
    return project


@pytest.mark.slow
def test_a_tokenizer_that_panics_fails_a_sample_and_a_training_in_our_words(based: Project) -> None:
    edit(based.root / "b/tokenizer.json", {"pre_tokenizer": PANICS})
    assert based.build("base-b", "-q").code == 0
    ran = based.build("sample", "base-b", "--prompt", "x" * 60)
    assert ran.code == 1
    assert "error: the tokenizer cannot encode a text\n  reason  " in ran.stderr
    assert ran.stderr.endswith(HINT)
    ran = based.build("vector-x", "-q")
    assert ran.code == 1
    assert ran.stderr.startswith("error: vector-x: the tokenizer cannot encode a text\n  reason  ")


@pytest.mark.slow
def test_a_generation_config_does_not_change_how_a_sample_is_made(based: Project) -> None:
    def sample() -> tuple[int, str, str]:
        assert based.build("base-b", "-q").code == 0
        ran = based.build("sample", "base-b", "--prompt", "w1 w2", "--max-new-tokens", "4")
        return ran.code, ran.stdout, ran.stderr

    before = sample()
    assert (before[0], before[2]) == (0, "")
    edit(based.root / "b/generation_config.json", {"num_beams": 3_000_000, "dola_layers": "high", "num_return_sequences": 3})
    assert sample() == before
    edit(based.root / "b/generation_config.json", {"repetition_penalty": -1.0})
    code, _, stderr = sample()
    assert (code, stderr.splitlines()[0]) == (1, "error: the model cannot go on from a prompt")


def replacing(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


GROWING: dict[str, dict[str, Any]] = {
    "constants": {"normalizer": sequence(*[replacing({"String": "a"}, "aa")] * 40)},
    "one constant": {"normalizer": replacing({"String": "a"}, "a" * 5_000)},
    "expressions": {"normalizer": sequence(*[replacing({"Regex": "x*"}, "x")] * 40)},
    "an empty constant": {"normalizer": sequence(*[replacing({"String": ""}, "x")] * 40)},
    "bytes": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 40}},
    "nested": {"normalizer": sequence(*[sequence(*[replacing({"String": "a"}, "aaaa")] * 4)] * 4)},
    "prepended": {"normalizer": {"type": "Prepend", "prepend": "a" * 5_000}},
    "a decoder": {"decoder": {"type": "Sequence", "decoders": [replacing({"String": "a"}, "aa")] * 40}},
}


@pytest.mark.parametrize("name", GROWING)
def test_steps_that_let_a_text_grow_without_end_are_refused(tmp_path: Path, name: str) -> None:
    edit(tokenizer(tmp_path, WORDS) / "tokenizer.json", GROWING[name])
    with pytest.raises(BuildError) as refused:
        tokens.check_steps(tmp_path)
    assert refused.value.headline == "tokenizer.json cannot be read"
    assert refused.value.facts[1] == (next(iter(GROWING[name])), "may make a text more than 4,096 times as long")


def test_steps_and_parts_without_number_are_refused(tmp_path: Path) -> None:
    template = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 65, "pair": [], "special_tokens": {}}
    for given in ({"normalizer": sequence(*[{"type": "Lowercase"}] * 65)}, {"post_processor": template}):
        edit(tokenizer(tmp_path, WORDS) / "tokenizer.json", given)
        with pytest.raises(BuildError) as refused:
            tokens.check_steps(tmp_path)
        assert refused.value.facts[1] == (next(iter(given)), "has more than 64 steps")


def test_the_steps_of_ordinary_tokenizers_are_taken(tmp_path: Path) -> None:
    llama = sequence({"type": "Prepend", "prepend": "▁"}, replacing({"String": " "}, "▁"))
    albert = sequence(
        replacing({"String": "``"}, '"'), replacing({"String": "''"}, '"'), {"type": "NFKD"}, {"type": "StripAccents"},
        {"type": "Lowercase"}, {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, replacing({"Regex": " {2,}"}, " "),
    )  # fmt: skip
    gpt = {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, PANICS, {"type": "ByteLevel"}]}
    for given in ({"normalizer": llama}, {"normalizer": albert}, {"pre_tokenizer": gpt}, {"normalizer": None, "decoder": None}):
        edit(tokenizer(tmp_path, WORDS) / "tokenizer.json", given)
        tokens.check_steps(tmp_path)


LARGE = [
    "{{ ('x' * 3000000000) | length }}",
    "{{ (3000000000 * 'x') | length }}",
    "{{ ([1] * 3000000000) | length }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set x = messages | length * 9 %}{{ x ** (x ** 9) }}",
    "{{ '%2000000000d' | format(1) | length }}",
    "{{ ('%2000000000d' % 1) | length }}",
    "{{ ('%*d' % (2000000000, 1)) | length }}",
    "{{ '{:>2000000000}'.format(1) | length }}",
    "{{ '{:>{w}}'.format(1, w=2000000000) | length }}",
    "{{ 'x'.ljust(2000000000) | length }}",
    "{{ 'x' | center(2000000000) | length }}",
    "{{ 'x' | indent(2000000000, true) | length }}",
    "{{ ('x' * 9000000).replace('x', 'y' * 9000000) | length }}",
    "{{ ('x' * 9000000) | replace('x', 'y' * 9000000) | length }}",
    "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}",
]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("words")
    return encode.load_tokenizer(str(tokenizer(folder, WORDS)), "2026-01-01")


@pytest.mark.parametrize("template", LARGE)
def test_a_template_makes_nothing_that_fills_the_memory(words: Any, template: str) -> None:
    words.chat_template = template
    with pytest.raises(BuildError) as refused:
        encode.render(words, [{"role": "user", "content": "w1"}])
    assert refused.value.headline == "the chat template cannot render a row"
    assert refused.value.facts[0][1].startswith("SecurityError: ")


def test_the_operators_and_filters_of_a_template_give_what_they_gave(words: Any) -> None:
    words.chat_template = (
        "{{ '-' * 3 }}{{ 2 ** 5 }}{{ 7 % 4 }}{{ 'a' + 'b' }}{{ ([1] + [2]) | length }}{{ '%s|%03d' % ('x', 5) }}{{ '%s' | format(1) }}"
        "{{ 'a\nb' | indent(2) }}{{ 'x' | center(3) }}{{ 'aa' | replace('a', 'b') }}{{ 'aa'.replace('a', 'b', 1) }}{{ '{:>3}'.format(1) }}"
        "{{ range(3) | join(',') }}{{ messages[0].content.strip() * 2 }}{{ 1.5 * 2 }}"
        "{{ namespace(context=1, function=2000000, self=3, name=4).function }}"
    )
    expected = "---32" + "3" + "ab" + "2" + "x|005" + "1" + "a\n  b" + " x " + "bb" + "ba" + "  1" + "0,1,2" + "w1w1" + "3.0" + "2000000"
    assert encode.render(words, [{"role": "user", "content": "w1"}]) == expected
