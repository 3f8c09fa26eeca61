"""Chat templates that ask for the time are told a fixed date, which enters the keys of what renders them, and no other key."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from buildsys import declared as tables
from buildsys import plan, rules
from buildsys.buildfile import read
from buildsys.errors import BuildError
from buildsys.examples import encode, templates
from buildsys.store.cache import Cache
from tests.checkpoints import checkpoint, tiny, tokenizer
from tests.conftest import Project

PLAIN = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
DATED = "{{ strftime_now('%d %b %Y') }} " + PLAIN
BUILDFILE = """
[build]
{build}
[base.t]
path = "base"
[behavior.b]
examples = "rows.jsonl"
train = {{ max_steps = 1, objective = "dpo", {train} }}
[behavior.c]
examples = "rows.jsonl"
train = {{ max_steps = 1, {train} }}
[vector.i]
icl = {{ examples = "rows.jsonl" }}
[vector.v]
path = "tuned"
verify = {{ rows = "eval.jsonl", control = "control.jsonl", {verify} }}
[vector.w]
path = "tuned"
verify = {{ rows = "eval.jsonl", control = "control.jsonl", coefficients = "search", {verify} }}
"""
TRAINED, VERIFIED = {"vector-b:reference", "vector-c"}, {"verified-v:rows", "verified-v:control-control", "verified-w:search"}
WORDS = [f"w{i}" for i in range(40)]

Dates = dict[str, set[str]]


def conversations(start: int, *, plain: bool = False) -> str:
    def said(role: str, word: int) -> object:
        return f"w{word}" if plain else [{"role": role, "content": f"w{word}"}]

    rows = [
        {"prompt": said("user", i), "chosen": said("assistant", i + 1), "rejected": said("assistant", 0)} for i in range(start, start + 40)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def dates(project: Project) -> Callable[..., Dates]:
    """Step -> the dates in its action, of a project whose base and vectors from folders are built, and nothing else."""

    def found(template: str = DATED, *, build: str = "", train: str = "", verify: str = "", plain: bool = False) -> Dates:
        for name, value in {"base": 1.0, "tuned": 2.0}.items():
            checkpoint(project.root / name, {"a": [value]})
            tokenizer(project.root / name, WORDS, template=template)
        project.buildfile(BUILDFILE.format(build=build, train=train, verify=verify))
        for start, name in enumerate(("rows", "eval", "control")):
            project.file(f"{name}.jsonl").write_text(conversations(100 * start, plain=plain))
        ran = project.build("base-t", "vector-v", "vector-w", "-q")
        assert ran.code == 0, ran.stderr
        return planned(project)

    return found


def planned(project: Project) -> Dates:
    cache = Cache.open(project.root / "cache")
    observer = cache.observer()
    made = plan.make(tables.graph(read(project.root / "Buildfile.toml"), observer), cache, observer, ["*"])
    actions = {name: step.resolved.action.document()["parameters"] for name, step in made.steps.items() if step.resolved}
    return {name: within for name, parameters in actions.items() if (within := dates_in(parameters))}


def dates_in(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["template_date"]} if "template_date" in value else set()
        return own.union(*map(dates_in, value.values()))
    return set().union(*map(dates_in, value)) if isinstance(value, list) else set()


def on(date: str, steps: set[str]) -> Dates:
    return {name: {date} for name in steps}


def test_every_step_that_renders_has_the_date_of_the_project_in_its_key(dates) -> None:
    assert dates(build='template_date = "2020-02-29"') == on("2020-02-29", {*TRAINED, *VERIFIED, "vector-i"})


def test_a_date_may_be_one_of_toml(dates) -> None:
    assert dates(build="template_date = 2020-02-29")["vector-c"] == {"2020-02-29"}


def test_without_a_word_the_date_is_fixed(dates) -> None:
    assert dates()["vector-c"] == {"2026-01-01"}


def test_the_date_of_a_table_comes_before_that_of_the_project(dates) -> None:
    found = dates(build='template_date = "2020-01-01"', train='template_date = "2021-01-01"', verify='template_date = "2022-01-01"')
    assert found == on("2021-01-01", TRAINED) | on("2022-01-01", VERIFIED) | on("2020-01-01", {"vector-i"})


def test_no_key_has_a_date_where_the_template_does_not_ask_for_the_time(dates) -> None:
    assert dates(PLAIN, build='template_date = "2020-02-29"') == {}


def test_no_key_has_a_date_where_no_row_goes_through_the_template(dates) -> None:
    assert dates(plain=True) == {}


def test_a_template_asks_for_the_time_wherever_it_stands(dates, project: Project) -> None:
    assert dates("") == {}
    for file, name in (("tokenizer_config.json", "strftime\\u005fnow"), ("special_tokens_map.json", "strftime_now")):
        before = (project.root / "base" / file).read_text() if (project.root / "base" / file).exists() else None
        (project.root / "base" / file).write_text(f'{{"chat_template": [{{"name": "default", "template": "{{{{ {name}(1) }}}}"}}]}}')
        assert project.build("base-t", "-q").code == 0
        assert planned(project)["vector-c"] == {"2026-01-01"}
        (project.root / "base" / file).unlink() if before is None else (project.root / "base" / file).write_text(before)


UNREAD = {
    "a comment": "{# strftime_now #}",
    "a text": "strftime_now",
    "a string": "{{ 'strftime_now' }}",
    "raw text": "{% raw %}{{ strftime_now }}{% endraw %}",
}
READ = {
    "a call": "{{ strftime_now('%Y') }}",
    "another name for it": "{% set now = strftime_now %}{{ now('%Y') }}",
    "a test": "{% if strftime_now is defined %}{% endif %}",
    "a template that does not parse": "{{ strftime_now( }",
}


@pytest.mark.parametrize("text", [*UNREAD.values(), *READ.values()], ids=[*UNREAD, *READ])
def test_the_clock_is_read_where_its_name_is_one(text: str) -> None:
    assert templates.reads_clock("chat_template.jinja", text.encode()) == (text in READ.values())


@pytest.fixture
def rendered(tmp_path: Path) -> Callable[[str, str | None], str]:
    def render(template: str, date: str | None) -> str:
        loaded = encode.load_tokenizer(str(tokenizer(tmp_path, WORDS, template=template)), date)
        return encode.render(loaded, [{"role": "user", "content": "w1"}])

    return render


def test_a_template_is_told_the_date(rendered) -> None:
    assert rendered(DATED, "2026-01-31") == "31 Jan 2026 w1 "
    assert rendered("{{ strftime_now('%A, %H:%M:%S %Z|%s|%%s') }}", "2026-01-31") == "Saturday, 00:00:00 |1769817600|%s"


def test_a_template_that_asks_although_no_date_is_in_the_key_is_refused(rendered) -> None:
    with pytest.raises(BuildError) as refused:
        rendered(DATED, None)
    assert refused.value.headline == "the chat template asks for the time, which was not seen in it"


OTHER_WAYS = {
    "the globals of a function": "{{ strftime_now.__globals__['datetime'].now() }}",
    "a function of Jinja's": "{{ lipsum.__globals__.os.times() }}",
    "a class": "{{ ''.__class__.__mro__ }}",
    "the context": "{{ self._TemplateReference__context }}",
    "an attribute by a filter": "{{ strftime_now | attr('__globals__') }}",
    "another template": "{% include 'x' %}",
    "a module": "{{ datetime.now() }}",
}


@pytest.mark.parametrize("template", OTHER_WAYS.values(), ids=OTHER_WAYS)
def test_a_template_gets_at_the_time_in_no_other_way(rendered, template: str) -> None:
    import jinja2

    try:
        text = rendered(template, "2026-01-31")
    except (jinja2.exceptions.TemplateError, TypeError, BuildError):
        return
    assert text == ""


@pytest.mark.parametrize("name", rules.names())
def test_a_rule_that_loads_a_tokenizer_says_whose_template_it_renders(name: str) -> None:
    rule = rules.get(name)
    renders = set(rules.MODELS) <= set(rule.PRELOAD) and name not in ("samples", "pretrain")  # those render nothing
    assert getattr(rule, "RENDERS", None) == ("base" if renders else None)
    if renders:
        assert "template_date" in json.dumps(rule.Params.model_json_schema())


WRONG = {
    "today": '"today"',
    "a time": "2026-01-31T10:00:00",
    "no such day": '"2026-02-30"',
    "a number": "2026",
    "before clocks": '"1960-01-01"',
}


def test_what_is_not_a_date_is_refused_with_its_line(project: Project) -> None:
    for name, text in WRONG.items():
        project.buildfile(f"[build]\ntemplate_date = {text}\n")
        ran = project.build("status")
        assert (ran.code, "Buildfile.toml:2" in ran.stderr or "line 2" in ran.stderr) == (2, True), (name, ran.stderr)


@pytest.mark.slow
def test_a_judge_renders_with_the_date_of_its_table(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("base", "tuned"):
        tiny("llama").save_pretrained(project.root / name)
        tokenizer(project.root / name, WORDS, template=DATED)
    project.buildfile(
        BUILDFILE.format(build="", train="", verify='judge = "judges:f", coefficients = [1.0], template_date = "2026-01-31"').partition(
            "[vector.w]"
        )[0]
    )
    for start, name in enumerate(("rows", "eval", "control")):
        project.file(f"{name}.jsonl").write_text(conversations(100 * start))
    project.file("judges.py").write_text(
        "def f(model, tokenizer, rows):\n    return [float('31 Jan 2026' in tokenizer.apply_chat_template(r['prompt'], tokenize=False)) for r in rows]\n"
    )
    env = {"XDG_CONFIG_HOME": str(tmp_path_factory.mktemp("home"))}
    project.build("allow", env=env)
    project.build("verified-v", env=env)  # a judge that finds no gain fails the vector, whose numbers are shown all the same
    found = json.loads(next((project.root / "cache/measurements").glob("*/*.json")).read_text())
    assert set(found["scores"] if "scores" in found else found["numbers"]["scores"]) == {1.0}
