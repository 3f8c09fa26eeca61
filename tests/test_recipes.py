"""Recipes through the command: algebra of vectors, merges on merges, lists, adapters, tokens, small stores; what each refuses."""

import json
import math
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.checkpoints import checkpoint, save, tiny, tokenizer
from tests.conftest import Project, Ran

HEAD = """
[base.one]
path = "one"
[vector.formal]
path = "formal"
[vector.polite]
path = "polite"
[vector.pirate]
path = "pirate"
"""


@pytest.fixture
def folders(project: Project) -> Project:
    checkpoint(project.root / "one", {"a": [1, 2], "b": [3]})
    checkpoint(project.root / "formal", {"a": [2, 2], "b": [5]})
    checkpoint(project.root / "polite", {"a": [1, 4], "b": [3]})
    checkpoint(project.root / "pirate", {"a": [1, 2], "b": [4]})
    return project


def built(project: Project, text: str, target: str) -> dict[str, list[float]]:
    project.buildfile(text)
    ran = project.build(target, "-q")
    assert ran.code == 0, ran.stderr
    folder = project.root / "cache/out" / target
    file = "vector.safetensors" if target.startswith("vector") else "model.safetensors"
    return {name: values.tolist() for name, values in load_file(folder / file).items()}


def refused(project: Project, text: str, *targets: str) -> Ran:
    project.buildfile(text)
    return project.build("-q", *(targets or ("merged-m",)))


def test_a_sum_of_vectors_is_a_vector(folders: Project) -> None:
    found = built(folders, HEAD + "[vector.s]\nsum = { formal = 0.5, polite = -1 }\n", "vector-s")
    assert found == {"a": [0.5, -2], "b": [1]}


def test_an_analogy_adds_the_third_to_what_tells_the_second_from_the_first(folders: Project) -> None:
    text = HEAD + '[vector.d]\nanalogy = { a = "formal", b = "polite", c = "pirate", coefficient = 2.0, relation = 0.5 }\n'
    assert built(folders, text, "vector-d") == {"a": [-0.5, 1], "b": [2 - 1]}


def test_a_merge_grows_on_a_merge_and_a_vector_is_taken_from_what_it_became(folders: Project) -> None:
    text = HEAD + (
        "[merged.v1]\nvectors = { formal = 1.0 }\nunverified = true\n"
        '[merged.v2]\nbase = "merged-v1"\nvectors = { polite = 1.0 }\nunverified = true\n'
        '[vector.step]\nbase = "merged-v1"\nof = "merged-v2"\n'
        '[merged.v3]\nbase = "merged-v1"\nvectors = { step = -1.0, pirate = 1 }\nunverified = true\n'
    )
    assert built(folders, text, "merged-v2") == {"a": [2, 4], "b": [5]}
    assert built(folders, text, "merged-v3") == {"a": [2, 0], "b": [6]}
    again = folders.build("merged-v2", "merged-v3", "--json").json()
    assert {one["state"] for one in again["targets"].values()} == {"fresh"}


def test_a_vector_of_a_later_model_is_not_added_to_an_earlier_one(folders: Project) -> None:
    text = HEAD + (
        "[merged.v1]\nvectors = { formal = 1.0 }\nunverified = true\n"
        '[vector.step]\nbase = "merged-v1"\npath = "polite"\n'
        '[merged.m]\nbase = "one"\nvectors = { step = 1.0 }\nunverified = true\n'
    )
    ran = refused(folders, text)
    assert ran.code == 2
    assert "vector 'step' was taken from merged-v1, and this merge is on base-one" in ran.stderr
    assert "hint: other_base = true adds it" in ran.stderr
    assert built(folders, text + "other_base = true\n", "merged-m") == {"a": [0, 4], "b": [1]}


def test_two_bases_on_one_folder_are_one_base(folders: Project) -> None:
    text = HEAD.replace('path = "formal"', 'base = "one"\npath = "formal"', 1) + '[base.same]\npath = "one"\n'
    text = text.replace('[vector.polite]\npath = "polite"\n[vector.pirate]\npath = "pirate"\n', "")
    found = built(folders, text + '[merged.m]\nbase = "same"\nvectors = { formal = 1.0 }\nunverified = true\n', "merged-m")
    assert found == {"a": [2, 2], "b": [5]}


def test_a_list_needs_no_names_and_its_order_does_not_matter(folders: Project) -> None:
    entries = ['{ path = "formal", coefficient = 0.5 }', '{ path = "polite" }', '{ vector = "pirate", coefficient = -1 }']
    text = '[base.one]\npath = "one"\n[vector.pirate]\npath = "pirate"\n[merged.m]\nunverified = true\nvectors = ['
    assert built(folders, text + ", ".join(entries) + "]\n", "merged-m") == {"a": [1.5, 4], "b": [3]}
    folders.buildfile(text + ", ".join(reversed(entries)) + "]\n")
    assert folders.build("merged-m").stderr.startswith("up to date")


def test_one_table_is_enough(folders: Project) -> None:
    text = '[merged.m]\nbase = { path = "one" }\nunverified = true\nvectors = [{ path = "formal", coefficient = 0.5 }]\n'
    assert built(folders, text, "merged-m") == {"a": [1.5, 2], "b": [4]}


def test_order_of_tables_and_of_vectors_changes_no_byte(folders: Project) -> None:
    merged = '[merged.m]\nmethod = "dare"\ndensity = 0.5\nunverified = true\n'
    folders.buildfile(HEAD + merged + "vectors = { formal = 1.0, polite = 0.5, pirate = 2 }\n")
    first = folders.build("merged-m", "--json").json()["targets"]["merged-m"]
    tables = (HEAD + merged + "vectors = { pirate = 2.0, formal = 1, polite = 0.5 }\n").strip().split("\n[")
    (folders.root / "cache/stat.sqlite").unlink(missing_ok=True)
    folders.buildfile("\n[".join([tables[0], *reversed(tables[1:])]) + "\n")
    again = folders.build("merged-m", "--json").json()["targets"]["merged-m"]
    assert (again["state"], again["digest"]) == ("fresh", first["digest"])


def test_a_changed_pattern_merges_again_and_says_why(folders: Project) -> None:
    text = HEAD + '[merged.m]\nunverified = true\nvectors = { formal = { "*" = 1.0, "b" = 0.5 } }\n'
    assert built(folders, text, "merged-m") == {"a": [2, 2], "b": [4]}
    folders.buildfile(text.replace('"b" = 0.5', '"b" = 0.25'))
    assert folders.build("why", "merged-m").stdout == "merged-m is stale\n  coefficients.formal.b 0.5 → 0.25\n"
    assert "| formal | `*` 1, `b` 0.5 |" in (folders.root / "cache/out/merged-m/README.md").read_text()


def test_large_negation_is_warned_of_and_done(folders: Project) -> None:
    folders.buildfile(HEAD + "[merged.m]\nunverified = true\nvectors = { formal = -0.8, polite = -0.5 }\n")
    ran = folders.build("merged-m")
    assert ran.code == 0
    assert ran.stderr.count("warning") == 1
    assert "merged-m: warning: coefficient -0.8 of formal: large negation is unstable, -0.5 is usually enough" in ran.stderr


def test_svc_after_a_merge_is_another_merge(folders: Project) -> None:
    for name, value in (("one", 0.0), ("formal", 1.0), ("polite", 1.0)):
        save(folders.root / name, {"w.weight": numpy.full((4, 3), value, numpy.float32)})
    text = HEAD.split("[vector.pirate]", maxsplit=1)[0] + "[merged.m]\nunverified = true\nvectors = { formal = 1.0, polite = 1.0 }\n"
    assert built(folders, text, "merged-m")["w.weight"][0] == [2, 2, 2]
    numpy.testing.assert_allclose(built(folders, text + 'post = "svc"\n', "merged-m")["w.weight"][0], [1, 1, 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("vectors = { formal = 0.0, polite = 0 }\nmethod = 'linear'", "the coefficients sum to 0, and 'linear' divides by their sum"),
        ("vectors = { formal = 0.0, polite = 0 }", "all coefficients are 0: the merge is the base"),
        ("vectors = { formal = 1.0, polite = 1 }\nmethod = 'slerp'", "'slerp' takes 1 vector, and there are 2"),
        ("vectors = { formal = 'much' }", "the coefficient of 'formal' is 'much', expected a number or 'auto'"),
        ("vectors = { formal = [1.0, 'x'] }", "the coefficient of 'formal' is wrong: a list over depth holds numbers, at least one"),
        ("vectors = { formal = { '*' = 'x' } }", "the coefficient of 'formal' is wrong: pattern '*': expected a number"),
        ("vectors = { formal = 1.0 }\nsvc_alpha = 0.5", 'svc_alpha belongs to post = "svc"'),
        ("vectors = { formal = 1.0 }\nmethod = 'dare_ties'", "there is no merge method 'dare_ties'"),
        ("vectors = { formal = 1.0 }\nfilter_wise = true", "merge method 'task_arithmetic' has no option 'filter_wise'"),
        ("vectors = [{ path = 'formal', coeficient = 1 }]", "unknown key 'coeficient' in vectors"),
        ("vectors = [{ path = 'nowhere' }]", "'nowhere' is not a model folder"),
        ("vectors = []", "'vectors' is empty"),
        ("vectors = { formal = 1.0 }\nbase = 'merged-x'", "there is no base 'merged-x'"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_line(folders: Project, table: str, text: str) -> None:
    ran = refused(folders, HEAD + "[merged.m]\nunverified = true\n" + table + "\n")
    assert ran.code == 2
    assert text in ran.stderr, ran.stderr
    assert "line " in ran.stderr
    assert not (folders.root / "cache").exists() or not list((folders.root / "cache").glob("actions/*"))


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("sum = { formal = 1.0, polit = 1 }", "there is no vector 'polit'"),
        ("sum = { formal = 0.0 }", "all coefficients are 0"),
        ('of = "merged-x"', "there is no model target 'merged-x'"),
        ('path = "formal"\nsum = { formal = 1.0 }', "needs one of path, hub, adapter, of, analogy, sum, icl; it has path and sum"),
        ('adapter = "formal"', "'formal' is not an adapter folder"),
        ('path = "formal"\nstore = "sparse"', 'store = "sparse" and store_density go together'),
        ('of = "base-one"', "base-one less itself is nothing"),
    ],
)
def test_a_wrong_vector_is_refused_with_its_line(folders: Project, table: str, text: str) -> None:
    ran = refused(folders, HEAD + f"[vector.x]\n{table}\n", "vector-x")
    assert ran.code == 2
    assert text in ran.stderr, ran.stderr


def test_a_circle_of_sums_is_shown_as_one(folders: Project) -> None:
    ran = refused(folders, HEAD + "[vector.x]\nsum = { y = 1.0 }\n[vector.y]\nsum = { x = 1.0 }\n", "vector-x")
    assert ran.code == 2
    assert "error: " in ran.stderr
    assert "Traceback" not in ran.stderr


# adapters


def lora(folder: Path, config: dict[str, object], tensors: dict[str, numpy.ndarray]) -> None:
    folder.mkdir(exist_ok=True)
    given = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(given))
    save_file({f"base_model.model.{name}": values for name, values in tensors.items()}, folder / "adapter_model.safetensors")


A, B = numpy.array([[1, 0, 2], [0, 1, 0]], numpy.float32), numpy.array([[1, 0], [0, 2], [1, 1], [0, 0]], numpy.float32)
FACTORS = {"up.lora_A.weight": A, "up.lora_B.weight": B}
ADAPTED = '[base.one]\npath = "one"\n[vector.x]\nadapter = "lora"\n'


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4 / math.sqrt(2)),
        ({"alpha_pattern": {"up": 6}}, 3.0),
        ({"alpha_pattern": {"down": 6}}, 2.0),
    ],
)
def test_an_adapter_becomes_a_vector(project: Project, config: dict[str, object], factor: float) -> None:
    save(project.root / "one", {"up.weight": numpy.zeros((4, 3), numpy.float32), "down.weight": numpy.zeros((3, 4), numpy.float32)})
    lora(project.root / "lora", config, FACTORS)
    found = built(project, ADAPTED, "vector-x")
    assert list(found) == ["up.weight"]
    numpy.testing.assert_allclose(found["up.weight"], factor * B @ A, rtol=1e-6)


def test_an_adapter_of_a_conv1d_base_is_turned(project: Project) -> None:
    save(project.root / "one", {"transformer.up.weight": numpy.zeros((3, 4), numpy.float32)})
    lora(project.root / "lora", {"fan_in_fan_out": True}, FACTORS)
    assert built(project, ADAPTED, "vector-x")["transformer.up.weight"] == (2 * B @ A).T.tolist()


def test_embeddings_and_tensors_saved_whole_belong_to_the_vector(project: Project) -> None:
    save(project.root / "one", {"embed.weight": numpy.ones((3, 4), numpy.float32), "head.weight": numpy.ones((2, 2), numpy.float32)})
    tensors = {"embed.lora_embedding_A": A, "embed.lora_embedding_B": B, "head.weight": numpy.full((2, 2), 3, numpy.float32)}
    lora(project.root / "lora", {}, tensors)
    found = built(project, ADAPTED, "vector-x")
    assert found["embed.weight"] == (2 * B @ A).T.tolist()
    assert found["head.weight"] == [[2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("config", "tensors", "text"),
    [
        ({}, {**FACTORS, "up.lora_B.weight": B * 0}, "error: vector-x: the adapter does nothing\n"),
        ({"use_dora": True}, FACTORS, "error: vector-x: the adapter is a DoRA"),
        ({"peft_type": "IA3"}, FACTORS, "error: vector-x: the adapter is not a LoRA\n"),
        ({}, {"up.lora_A.weight": A}, "error: vector-x: tensor 'base_model.model.up.lora_B.weight' is missing from the adapter\n"),
        ({}, {"upp.lora_A.weight": A, "upp.lora_B.weight": B}, "error: vector-x: tensor 'upp.weight' does not match\n"),
        (
            {"fan_in_fan_out": True},
            FACTORS,
            "error: vector-x: tensor 'up.weight' does not match\n  base     float32 [4, 3]\n  adapter  B·A is [3, 4]\n",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(project: Project, config: dict, tensors: dict[str, numpy.ndarray], text: str) -> None:
    save(project.root / "one", {"up.weight": numpy.zeros((4, 3), numpy.float32)})
    lora(project.root / "lora", config, tensors)
    ran = refused(project, ADAPTED, "vector-x")
    assert ran.code == 1
    assert ran.stderr.startswith(text), ran.stderr


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_real_peft_adapter_gives_the_model_that_peft_merges(project: Project, family: str) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    tiny(family).save_pretrained(project.root / "one")
    base = AutoModelForCausalLM.from_pretrained(project.root / "one")
    targets = ["q_proj", "down_proj"] if family == "llama" else ["c_attn", "c_proj"]
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, use_rslora=True, task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(project.root / "lora")
    text = ADAPTED + "[merged.m]\nunverified = true\nvectors = { x = 1.0 }\n"
    project.buildfile(text)
    ran = project.build("merged-m", "-q")
    assert ran.code == 0, ran.stderr
    ours = AutoModelForCausalLM.from_pretrained(project.root / "cache/out/merged-m")
    ids = torch.arange(12).reshape(1, -1)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, adapted.merge_and_unload()(ids).logits, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(ours(ids).logits, AutoModelForCausalLM.from_pretrained(project.root / "one")(ids).logits, atol=1e-3)


# tokens

WORDS = ["<unk>", "ahoy", "ship", "tea"]
EMBEDDED = "model.embed_tokens.weight"


def embedded(folder: Path, rows: list[list[float]], added: dict[str, int], template: str = "", words: list[str] = WORDS) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(rows)}
    save(folder, {EMBEDDED: numpy.array(rows, numpy.float32), "norm": numpy.ones(2, numpy.float32)}, config)
    tokenizer(folder, words, added, template)


ROWS = [[1.0, 1], [2, 2], [3, 3], [4, 4]]
MERGE = '[base.one]\npath = "one"\n[vector.x]\npath = "tuned"\n[merged.m]\nunverified = true\nvectors = { x = 1.0 }\n'


def test_another_tokenizer_is_refused_with_both_sides(project: Project) -> None:
    embedded(project.root / "one", ROWS, {})
    embedded(project.root / "tuned", ROWS, {}, words=["<unk>", "ahoy", "tea", "ship"])
    ran = refused(project, MERGE)
    assert ran.stderr.startswith(
        "error: vector-x: the model has another tokenizer than the base\n"
        "  base              4 tokens\n  model             4 tokens\n  first difference  'ship': row 2 against 3\n"
    )


def test_another_chat_template_is_refused_until_the_bases_is_asked_for(project: Project) -> None:
    embedded(project.root / "one", ROWS, {}, "one")
    embedded(project.root / "tuned", [[row[0] + 1, row[1]] for row in ROWS], {}, "two")
    ran = refused(project, MERGE)
    assert ran.stderr.startswith(
        "error: merged-m: a model of the merge has other tokens than the base\n  vector 1  another chat template\n"
    )
    assert built(project, MERGE + 'tokenizer = "base"\n', "merged-m")[EMBEDDED] == [[row[0] + 1, row[1]] for row in ROWS]
    assert (project.root / "cache/out/merged-m/chat_template.jinja").read_text() == "one"


def test_added_tokens_are_refused_left_out_or_given_rows_of_their_own(project: Project) -> None:
    """The base has <a>; the model has <b> in its place, and <a> one further."""
    embedded(project.root / "one", [*ROWS, [5, 5]], {"<a>": 4})
    embedded(project.root / "tuned", [*ROWS, [60, 60], [7, 7]], {"<b>": 4, "<a>": 5})
    ran = refused(project, MERGE)
    assert "error: merged-m: a model of the merge has other tokens than the base\n  vector 1  1 added tokens (<b>)\n" in ran.stderr
    assert built(project, MERGE + 'tokenizer = "base"\n', "merged-m")[EMBEDDED] == [*ROWS, [7, 7]]
    assert built(project, MERGE + 'tokenizer = "union"\n', "merged-m")[EMBEDDED] == [*ROWS, [7, 7], [60, 60]]
    out = project.root / "cache/out/merged-m"
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 6
    from transformers import PreTrainedTokenizerFast

    found = PreTrainedTokenizerFast.from_pretrained(out)
    assert found.convert_tokens_to_ids(["<a>", "<b>", "tea"]) == [4, 5, 3]


def test_new_tokens_use_rows_that_pad_the_base(project: Project) -> None:
    embedded(project.root / "one", [*ROWS, [0, 0], [0, 0]], {})
    embedded(project.root / "tuned", [*ROWS, [9, 9]], {"<b>": 4})
    assert built(project, MERGE + 'tokenizer = "union"\n', "merged-m")[EMBEDDED] == [*ROWS, [9, 9], [0, 0]]


def test_other_rows_without_a_tokenizer_are_refused(project: Project) -> None:
    save(project.root / "one", {EMBEDDED: numpy.ones((4, 2), numpy.float32)})
    save(project.root / "tuned", {EMBEDDED: numpy.ones((5, 2), numpy.float32)})
    ran = refused(project, MERGE)
    assert "error: vector-x: the vocabularies differ, and there is no tokenizer to tell which row is which\n" in ran.stderr


def test_a_head_that_one_side_ties_is_the_embeddings_twin(project: Project) -> None:
    tied = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}
    rows, more = numpy.array(ROWS, numpy.float32), numpy.array(ROWS, numpy.float32) + 1
    save(project.root / "one", {EMBEDDED: rows}, tied)
    save(project.root / "tuned", {EMBEDDED: more, "lm_head.weight": more}, tied)
    assert built(project, MERGE, "merged-m") == {EMBEDDED: more.tolist()}
    save(project.root / "tuned", {EMBEDDED: more, "lm_head.weight": rows}, tied)
    ran = refused(project, MERGE)
    assert "error: vector-x: tensor 'lm_head.weight' does not match\n  base   has none\n" in ran.stderr


# small stores


def test_a_sparse_vector_trimmed_at_the_merges_density_gives_the_same_merge(project: Project) -> None:
    generator = numpy.random.default_rng(0)
    shapes = {"model.layers.0.up": (300, 250), "model.layers.0.norm": (33,)}
    base = {name: generator.standard_normal(shape).astype(numpy.float32) for name, shape in shapes.items()}
    save(project.root / "one", base)
    for folder in ("formal", "polite"):
        tuned = {name: values + generator.standard_normal(values.shape).astype(numpy.float32) * 0.01 for name, values in base.items()}
        save(project.root / folder, tuned)
    text = (
        HEAD.split("[vector.pirate]", maxsplit=1)[0]
        + '[merged.m]\nmethod = "ties"\nunverified = true\nvectors = { formal = 1.0, polite = 0.5 }\n'
    )
    exact = built(project, text, "merged-m")
    small = text.replace('path = "formal"', 'path = "formal"\nstore = "sparse"\nstore_density = 0.2')
    assert built(project, small, "merged-m") == exact
    facts = project.build("show", "vector-formal", "--json").json()["facts"]
    assert facts["bytes"] < 0.25 * facts["bytes_exact"]


@pytest.mark.parametrize(("store", "bits", "error"), [("int8", 8.7, 0.01), ("int4", 4.7, 0.15)])
def test_a_quantised_vector_is_read_directly_and_says_what_it_lost(project: Project, store: str, bits: float, error: float) -> None:
    generator = numpy.random.default_rng(0)
    tau = generator.standard_normal((130, 77)).astype(numpy.float32)
    save(project.root / "one", {"w": numpy.zeros((130, 77), numpy.float32)})
    save(project.root / "tuned", {"w": tau})
    text = MERGE.replace('path = "tuned"', f'path = "tuned"\nstore = "{store}"')
    found = numpy.array(built(project, text, "merged-m")["w"])
    lost = float(numpy.linalg.norm(found - tau) / numpy.linalg.norm(tau))
    facts = project.build("show", "vector-x", "--json").json()["facts"]
    assert abs(facts["relative_error"] - lost) < 1e-4
    assert 0 < lost < error
    assert facts["bits_an_entry"] < bits


@pytest.mark.slow
def test_another_store_packs_again_and_trains_nothing(folders: Project) -> None:
    text = HEAD + "[merged.m]\nunverified = true\nvectors = { formal = 1.0 }\n"
    built(folders, text, "merged-m")
    folders.buildfile(text.replace('path = "formal"', 'path = "formal"\nstore = "int8"'))
    ran = folders.build("merged-m")
    assert "vector-formal: pack" in ran.stderr
    assert "extract" not in ran.stderr
    assert "model" not in ran.stderr.replace("merged-m", "")


def test_models_that_do_not_fit_are_refused_by_their_headers_before_anything_is_hashed(folders: Project) -> None:
    checkpoint(folders.root / "formal", {"a": [2, 2, 2], "b": [5]})
    ran = refused(folders, HEAD + "[merged.m]\nunverified = true\nvectors = { formal = 1.0 }\n")
    assert ran.code == 1
    assert ran.stderr == (
        "error: vector-formal: tensor 'a' does not match\n  base   float32 [2]\n  model  float32 [3]\n"
        "hint: a vector is taken from a model that was tuned from this base\n"
    )
    assert not (folders.root / "cache" / "objects").exists()


# what a review found


def test_peft_adapters_of_embeddings_and_heads_are_not_lost_to_the_copies_that_peft_saves(project: Project) -> None:
    base = numpy.ones((4, 3), numpy.float32)
    save(project.root / "one", {"up.weight": base})
    lora(project.root / "lora", {}, {**FACTORS, "up.base_layer.weight": base})
    numpy.testing.assert_allclose(built(project, ADAPTED, "vector-x")["up.weight"], 2 * B @ A)


@pytest.mark.parametrize(("pattern", "factor"), [("^up", 2.0), ("layers.0.up", 3.0), (".*up", 3.0)])
def test_patterns_of_alphas_are_read_as_peft_reads_them(project: Project, pattern: str, factor: float) -> None:
    save(project.root / "one", {"model.layers.0.up.weight": numpy.zeros((4, 3), numpy.float32)})
    tensors = {f"model.layers.0.{name}": values for name, values in FACTORS.items()}
    lora(project.root / "lora", {"alpha_pattern": {pattern: 6}}, tensors)
    numpy.testing.assert_allclose(built(project, ADAPTED, "vector-x")["model.layers.0.up.weight"], factor * B @ A, rtol=1e-6)


def test_a_square_conv1d_is_turned_whatever_the_flag_says(project: Project) -> None:
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    save(project.root / "one", {"h.0.attn.c_proj.weight": numpy.zeros((3, 3), numpy.float32)}, config)
    square = {"h.0.attn.c_proj.lora_A.weight": A, "h.0.attn.c_proj.lora_B.weight": B[:3]}
    lora(project.root / "lora", {"fan_in_fan_out": False}, square)
    assert built(project, ADAPTED, "vector-x")["h.0.attn.c_proj.weight"] == (2 * B[:3] @ A).T.tolist()


def test_integers_that_differ_are_refused_and_so_is_a_quantised_model(project: Project) -> None:
    for folder, code in (("one", 1), ("tuned", 9)):
        save(project.root / folder, {"codes": numpy.array([code]), "w": numpy.array([code], numpy.float32)})
    assert "error: vector-x: tensor 'codes' differs and is not floating-point\n" in refused(project, MERGE).stderr
    config = {"architectures": ["LlamaForCausalLM"], "quantization_config": {"bits": 4}}
    save(project.root / "one", {"w": numpy.ones(1, numpy.float32)}, config)
    assert "error: base-one: the model is quantised" in refused(project, MERGE, "base-one").stderr


def test_a_tied_head_that_the_base_stores_moves_with_its_embeddings(project: Project) -> None:
    tied = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}
    rows = numpy.array(ROWS, numpy.float32)
    save(project.root / "one", {EMBEDDED: rows, "lm_head.weight": rows}, tied)
    save(project.root / "tuned", {EMBEDDED: rows + 1}, tied)
    found = built(project, MERGE, "merged-m")
    assert found == {EMBEDDED: (rows + 1).tolist(), "lm_head.weight": (rows + 1).tolist()}


def test_two_spellings_of_one_tokenizer_are_one(project: Project) -> None:
    embedded(project.root / "one", ROWS, {})
    embedded(project.root / "tuned", [[row[0] + 1, row[1]] for row in ROWS], {})
    for folder, merges in (("one", ["a b"]), ("tuned", [["a", "b"]])):
        file = project.root / folder / "tokenizer.json"
        given = json.loads(file.read_text())
        given["model"]["merges"] = merges
        file.write_text(json.dumps(given))
    assert built(project, MERGE, "merged-m")[EMBEDDED][0] == [2, 1]


def test_new_tokens_get_rows_where_no_vector_moves_the_embeddings_and_from_a_tied_head(project: Project) -> None:
    embedded(project.root / "one", ROWS, {})
    embedded(project.root / "tuned", [*ROWS, [9, 9]], {"<b>": 4})
    found = built(project, MERGE.replace("x = 1.0", 'x = { "norm" = 1.0 }') + 'tokenizer = "union"\n', "merged-m")
    assert found[EMBEDDED] == [*ROWS, [9, 9]]


def test_a_packed_vector_has_no_rows_of_new_tokens(project: Project) -> None:
    embedded(project.root / "one", ROWS, {})
    embedded(project.root / "tuned", [*ROWS[:3], [5, 5], [9, 9]], {"<b>": 4})
    ran = refused(project, MERGE.replace('path = "tuned"', 'path = "tuned"\nstore = "int8"') + 'tokenizer = "union"\n')
    assert 'error: merged-m: tokenizer = "union" needs the models themselves\n' in ran.stderr


def test_gaps_in_a_vocabulary_are_not_given_away(project: Project) -> None:
    for folder, rows, added in (("one", [*ROWS, [0, 0], [6, 6]], {}), ("tuned", [*ROWS, [0, 0], [6, 6], [9, 9]], {"<b>": 6})):
        embedded(project.root / folder, rows, added)
        file = project.root / folder / "tokenizer.json"
        given = json.loads(file.read_text())
        given["model"]["vocab"] = {"<unk>": 0, "ahoy": 1, "ship": 2, "tea": 5}
        file.write_text(json.dumps(given))
    assert built(project, MERGE + 'tokenizer = "union"\n', "merged-m")[EMBEDDED] == [*ROWS, [0, 0], [6, 6], [9, 9]]


def test_another_base_with_another_tokenizer_is_refused(project: Project) -> None:
    embedded(project.root / "one", ROWS, {})
    embedded(project.root / "tuned", [[row[0] + 1, row[1]] for row in ROWS], {})
    embedded(project.root / "two", ROWS, {}, words=["<unk>", "ahoy", "tea", "ship"])
    text = MERGE.replace("[vector.x]", '[base.two]\npath = "two"\n[vector.x]\nbase = "one"') + 'base = "two"\nother_base = true\n'
    assert "error: merged-m: vector 1 comes from a base with another tokenizer\n" in refused(project, text).stderr


def test_nuslerp_over_a_list_of_depths_goes_all_the_way_at_its_ends(folders: Project) -> None:
    text = (
        HEAD
        + '[merged.m]\nunverified = true\nmethod = "nuslerp"\nvectors = { formal = { "a" = 1.0, "b" = 1.0 }, polite = { "a" = 1.0 } }\n'
    )
    assert built(folders, text, "merged-m")["b"] == [5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[vector.x]\nsum = { x = 1.0 }\nstore = "int8"\n', "targets need each other in a circle"),
        ('[merged.m]\nbase = "merged-m"\nunverified = true\nvectors = { formal = 1.0 }\n', "merged-m cannot be its own base"),
        ('[merged.m]\nbase = ["one"]\nunverified = true\nvectors = { formal = 1.0 }\n', "'base' is a list, expected text or a table"),
        ('[merged.m]\nunverified = true\nvectors = ["formal"]\n', "'vectors.0' is 'formal', expected a table"),
        ('[merged.m]\nunverified = ["formal", "frmal"]\nvectors = { formal = 1.0 }\n', "'frmal' is no vector of this merge"),
        ('[merged.m]\nunverified = true\nvectors = [{ pth = "formal" }]\n', "the nearest key to 'pth' is 'path'"),
    ],
)
def test_mistakes_that_only_a_user_makes(folders: Project, text: str, message: str) -> None:
    ran = refused(folders, HEAD + text, "*")
    assert ran.code == 2
    assert message in ran.stderr, ran.stderr
    assert "internal" not in ran.stderr
