"""How large what an operator, a filter or a call in a chat template makes may be: one could fill the memory before a clock stops it.

Jinja's sandbox limits `range` alone. Its operators can be taken over; how large a result is, is then known before it is made. A text
that a loop doubles with `~` or a block is stopped by the limit of time alone.
"""

from __future__ import annotations

import functools
import re
from typing import Any

SIZE_MAX = 10_000_000  # characters, entries, or bits of a number
_WIDTH_MAX = 100_000  # of a padded text, and as far as a text may be repeated by a method or a filter
_WIDTH = re.compile(r"\d{6,}|\*")  # in a format
_GROWING = ("center", "format", "indent", "replace")  # filters that make a text longer


@functools.cache
def environment() -> type[Any]:
    """The sandbox that transformers renders with; it raises SecurityError for an operation whose result is larger than SIZE_MAX."""
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Limited(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            for name in _GROWING:
                self.filters[name] = _checked(name, self.filters[name])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if _size(operator, left, right) > SIZE_MAX:
                raise SecurityError(f"the result of '{operator}' is too large")
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, /, *given: Any, **named: Any) -> Any:
            method = getattr(function, "__wrapped__", function)  # the sandbox wraps `format`
            text = getattr(method, "__self__", None)
            if isinstance(text, str):
                _check(method.__name__, text, *given, *named.values())
            return super().call(context, function, *given, **named)

    def _checked(name: str, function: Any) -> Any:
        @functools.wraps(function)  # with what Jinja notes on it of how it is called
        def checked(*given: Any, **named: Any) -> Any:
            _check(name, *given, *named.values())
            return function(*given, **named)

        return checked

    def _check(name: str, *values: Any) -> None:
        if any(type(value) is int and abs(value) > _WIDTH_MAX for value in values):
            raise SecurityError(f"a number that '{name}' is given is too large")
        texts = [value for value in values if isinstance(value, str)]
        if name in ("format", "format_map") and texts and _WIDTH.search(texts[0]):
            raise SecurityError(f"a width that '{name}' is given is too large")
        if name == "replace" and len(texts) > 2 and texts[0].count(texts[1]) * len(texts[2]) > SIZE_MAX:
            raise SecurityError("the result of 'replace' is too large")

    return Limited


def _size(operator: str, left: Any, right: Any) -> int:
    """Of what an operator makes, before it does; 0 where it cannot be large."""
    if isinstance(left, int) and isinstance(right, int):
        if operator == "**":
            return left.bit_length() * max(right, 0)
        return left.bit_length() + right.bit_length() if operator == "*" else 0
    if operator == "*":
        value, times = (right, left) if isinstance(left, int) else (left, right)
        return len(value) * max(times, 0) if isinstance(value, (str, bytes, list, tuple)) and isinstance(times, int) else 0
    if operator == "%" and isinstance(left, str):
        return SIZE_MAX + 1 if _WIDTH.search(left) else 0
    kinds = (str, bytes, list, tuple)
    return len(left) + len(right) if operator == "+" and isinstance(left, kinds) and isinstance(right, kinds) else 0
