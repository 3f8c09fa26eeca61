"""The options of a merge method, read from its signature: checked and completed before anything runs. No torch."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

from buildsys.errors import nearest
from buildsys.merging import methods

_NOT_OPTIONS = ("thresholds",)  # found by the pass itself


def names(method: str) -> list[str]:
    return list(_parameters(method))


def completed(method: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """(every option with its value, problems): a problem is (option, what is wrong, hint)."""
    known = _parameters(method)
    values = {name: parameter.default for name, parameter in known.items()}
    problems = []
    for name, value in given.items():
        if name not in known:
            hint = f"options of '{method}' are {', '.join(known)}"
            close = nearest(name, known)
            problems.append((name, f"merge method '{method}' has no option '{name}'", f"{hint}; did you mean '{close}'" if close else hint))
            continue
        accepted, wrong = _checked(known[name].annotation, value)
        if wrong:
            problems.append((name, f"'{name}' is {value!r}, expected {wrong}", ""))
        values[name] = accepted
    return values, problems


def _checked(annotation: Any, value: Any) -> tuple[Any, str]:
    """(the value in its type, "") or (value, what was expected)."""
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        return value, "" if value in choices else " or ".join(map(repr, choices))
    kind, allowed = typing.get_args(annotation)
    assert kind is float, annotation
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value in allowed:
        return float(value), ""
    return value, str(allowed)


def _parameters(method: str) -> dict[str, inspect.Parameter]:
    return {
        name: parameter.replace(annotation=eval(parameter.annotation, vars(methods)))  # a string, under the __future__ import
        for name, parameter in inspect.signature(methods.METHODS[method]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in _NOT_OPTIONS
    }
