"""The options of a merge method, read from its signature: checked and completed before anything runs. No torch."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

from buildsys.errors import nearest
from buildsys.merging import methods


def names(method: str) -> list[str]:
    return list(_parameters(method))


def completed(method: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """(every option with its value, problems): a problem is (option, what is wrong, hint)."""
    known = _parameters(method)
    values = {name: parameter.default for name, parameter in known.items()}
    problems = []
    for name, value in given.items():
        if name not in known:
            hint = f"options of '{method}' are {', '.join(known)}" if known else f"'{method}' has no options"
            close = nearest(name, known)
            owners = [other for other in methods.METHODS if name in _parameters(other)]
            if close:
                hint += f"; did you mean '{close}'"
            elif owners:
                hint += f"; '{name}' belongs to {', '.join(owners)}"
            problems.append((name, f"merge method '{method}' has no option '{name}'", hint))
            continue
        accepted, wrong = _checked(known[name].annotation, value)
        if wrong:
            problems.append((name, f"'{name}' is {value!r}, expected {wrong}", ""))
        values[name] = accepted
    if not problems:
        problems += _together(method, values)
    return values, problems


def _together(method: str, values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What is wrong with options that are right one by one."""
    if method == "della" and not (values["epsilon"] / 2 < values["density"] and values["density"] + values["epsilon"] / 2 <= 1):
        low, high = values["density"] - values["epsilon"] / 2, values["density"] + values["epsilon"] / 2
        return [("epsilon", f"density ∓ epsilon/2 is {low:g} … {high:g}, expected probabilities in (0, 1]", "")]
    if method == "breadcrumbs" and values["density"] + values["gamma"] > 1 + 1e-9:
        return [("gamma", f"density + gamma is {values['density'] + values['gamma']:g}, expected at most 1", "")]
    if method == "nuslerp" and values["row_wise"] and values["flatten"]:
        return [("row_wise", "'row_wise' says which angles, and flatten = true takes one for the tensor", "set flatten = false")]
    return []


def _checked(annotation: Any, value: Any) -> tuple[Any, str]:
    """(the value in its type, "") or (value, what was expected)."""
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        return value, "" if value in choices and isinstance(value, str) else " or ".join(map(repr, choices))
    if annotation is bool:
        return value, "" if isinstance(value, bool) else "true or false"
    kind, allowed = typing.get_args(annotation)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value in allowed and (kind is float or float(value).is_integer()):
        return kind(value), ""
    return value, str(allowed) if kind is float else f"a whole {str(allowed).removeprefix('a ')}"


def _parameters(method: str) -> dict[str, inspect.Parameter]:
    return {
        name: parameter.replace(annotation=eval(parameter.annotation, vars(methods)))  # a string, under the __future__ import
        for name, parameter in inspect.signature(methods.METHODS[method]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
