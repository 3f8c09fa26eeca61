"""The clock of chat templates: which of them read it, and what it shows. Renders no conversation.

transformers gives a template one function that tells the time, `strftime_now`; its sandbox keeps everything else that could out of
reach (attributes with underscores, modules, objects that are not JSON). Jinja's own functions tell no time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from buildsys.errors import BuildError
from buildsys.examples import limits

FILES = ("chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json")  # of a model folder: where a template may stand
_CLOCK = "strftime_now"
_ESCAPE = re.compile(r"%([%s])")


def reads_clock(name: str, data: bytes) -> bool:
    """True where a template in one of FILES names the function that tells the time; in a comment or a text it may."""
    text = data.decode("utf-8", errors="replace")
    if not name.endswith(".json"):
        return _names_clock(text)
    try:
        return any(_names_clock(found) for found in _strings(json.loads(text)))
    except (ValueError, RecursionError):
        return _CLOCK in text  # no tokenizer can be loaded from it


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _names_clock(template: str) -> bool:
    if _CLOCK not in template:  # a name has one spelling: nothing in a template can compute it
        return False
    from jinja2 import Environment, TemplateSyntaxError

    try:
        return any(kind == "name" and word == _CLOCK for _, kind, word in Environment().lex(template))
    except TemplateSyntaxError:
        return True


def set_clock(date: str | None) -> None:
    """From now on every chat template of this process is told midnight of a date, as YYYY-MM-DD; None: one that asks is refused.

    Every template is limited from then on, too (`limits`).

    Raises BuildError where the installed transformers tells its templates the time in a way that is not known here.
    """
    from transformers.utils import chat_template_utils

    vars(chat_template_utils)["datetime"] = _Clock(date)
    vars(chat_template_utils)["ImmutableSandboxedEnvironment"] = limits.environment()
    if date is None:
        return
    rendered: Any = chat_template_utils.render_jinja_template([[]], chat_template=f"{{{{ {_CLOCK}('%Y-%m-%d') }}}}")[0]
    if rendered != [date]:
        facts = [("expected", date), ("rendered", str(rendered))]
        raise BuildError("the clock of chat templates cannot be set", facts, "install a version of transformers that buildsys knows")


class _Clock:
    """What stands for `datetime` where transformers makes `strftime_now`."""

    def __init__(self, date: str | None) -> None:
        self._date = date

    def now(self) -> _Clock:
        return self

    def strftime(self, form: str) -> str:
        if self._date is None:
            hint = "give the template a plain text, or report this: its key has no date"
            raise BuildError("the chat template asks for the time, which was not seen in it", hint=hint)
        moment = datetime.fromisoformat(self._date)
        seconds = f"{moment.replace(tzinfo=UTC).timestamp():.0f}"  # %s would ask the machine for its time zone
        return moment.strftime(_ESCAPE.sub(lambda match: "%%" if match[1] == "%" else seconds, form))
