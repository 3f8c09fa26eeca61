"""`[merged.*]`: a base, a method with its options, and vectors with their coefficients, by name or in a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from buildsys.buildfile import shown
from buildsys.declared import bases, checks, vectors
from buildsys.declared.reader import Inputs, Member, Reader, Where
from buildsys.errors import nearest
from buildsys.graph import Output, Step, Target, Value
from buildsys.merging import coefficients as recipes
from buildsys.merging import methods, options
from buildsys.tables import Listed, Merged, Source

_LARGE_NEGATION = 0.5


@dataclass(frozen=True)
class _Taken:
    """label  what explanations call it
    verdict  the step whose verdict the merge needs, "" where it is taken unverified
    """

    label: str
    step: str
    verdict: str
    coefficient: Any


def add(reader: Reader, name: str, given: Merged) -> None:
    where, target = ("merged", name), f"merged-{name}"
    steps: list[str] = []
    base = _base(reader, where, target, given, steps)
    chosen = _method(reader, where, given)
    if base == target:
        reader.file.problem((*where, "base"), f"{target} cannot be its own base")
        return
    if isinstance(given.vectors, dict):
        entries = [_named(reader, where, given, vector, coefficient, base) for vector, coefficient in given.vectors.items()]
    else:
        entries = [_listed(reader, where, given, target, at, entry, base, steps) for at, entry in enumerate(given.vectors, 1)]
    found = [entry for entry in entries if entry is not None]
    if base is None or chosen is None or len(found) != len(entries):
        return
    _together(reader, where, given, found)
    named = given.unverified if isinstance(given.unverified, list) else []
    every = [one.label for one in found]
    for label in named:
        if label not in every:
            close = nearest(label, every)
            hint = f"the nearest is '{close}'" if close else f"its vectors are {', '.join(every)}"
            reader.file.problem((*where, "unverified"), f"'{label}' is no vector of this merge", hint)
    values = [Value(one.verdict, "verdict.json", "coefficient") if one.coefficient == "auto" else one.coefficient for one in found]
    parameters: dict[str, Any] = {"method": given.method, "options": chosen, "post": given.post}
    parameters |= {"svc_alpha": 1.0 if given.svc_alpha is None else given.svc_alpha, "tokenizer": given.tokenizer}
    parts = [Member(one.label, one.step, bool(one.verdict), value, base) for one, value in zip(found, values, strict=True)]
    if given.tune is not None:
        tuning = checks.tuned(reader, target, where, given, base, parts, parameters)
        if not tuning:
            return
        steps += tuning
        values = [Value(tuning[-1], "tuned.json", Output(one.step)) for one in found]
    parameters["coefficients"] = values
    inputs: Inputs = {"base": Output(base), "vectors": tuple(Output(one.step) for one in found)}
    names = [one.label for one in found]
    after = tuple(one.verdict for one in found if one.verdict)
    labels = {"vectors": names, "coefficients": names}
    reader.add(Step(target, target, "merge", parameters, inputs, after, labels, {"device": given.device}, notes=_notes(found)))
    recipe = [("base", base), ("method", given.method), *((option, str(value)) for option, value in chosen.items())]
    recipe += [("post", f"svc, alpha {parameters['svc_alpha']:g}")] if given.post else []
    recipe += [("tokenizer", given.tokenizer)] if given.tokenizer else []
    reader.composed[target] = base, parts
    reader.targets.append(Target(target, "merged", target, (*steps, target), recipe=tuple(recipe)))


def _base(reader: Reader, where: Where, target: str, given: Merged, steps: list[str]) -> str | None:
    if not isinstance(given.base, Source):
        return reader.base(where, given.base)
    step = f"{target}:base"
    bases.model(reader, step, target, (*where, "base"), given.base)
    steps.append(step)
    return step


def _method(reader: Reader, where: Where, given: Merged) -> dict[str, Any] | None:
    if given.method not in methods.METHODS:
        close = nearest(given.method, methods.METHODS)
        hint = f"methods are {', '.join(methods.METHODS)}"
        hint = f"{hint}; the nearest is '{close}'" if close else hint
        hint = _THEIRS.get(given.method, hint)
        reader.file.problem((*where, "method"), f"there is no merge method '{given.method}'", hint)
        return None
    chosen, problems = options.completed(given.method, given.options)
    for option, text, hint in problems:
        reader.file.problem((*where, option), text, hint)
    return chosen


_THEIRS = {
    "dare_linear": 'write method = "dare"',
    "dare_ties": 'write method = "dare", elect = "mass", mean = "sum"',
    "della_linear": 'write method = "della", elect = "none", mean = "sum"',
    "breadcrumbs_ties": 'write method = "breadcrumbs", elect = "mass", mean = "sum"',
}


def _named(reader: Reader, where: Where, given: Merged, vector: str, coefficient: Any, base: str | None) -> _Taken | None:
    at = (*where, "vectors", vector)
    known = reader.vector_names
    good = _coefficient(reader, at, vector, coefficient)
    if vector not in known:
        close = nearest(vector, known)
        hint = f"the nearest vector is '{close}'" if close else f"vectors are {', '.join(known) or 'none'}"
        reader.file.problem(at, f"there is no vector '{vector}'", hint)
        return None
    step = f"vector-{vector}"
    if step not in reader.steps or good is None:
        return None  # its own table has a problem, which is reported
    if not _fits(reader, at, vector, step, given, base):
        return None
    if f"verified-{vector}" in reader.steps:
        return _Taken(vector, step, f"verified-{vector}", good)
    unverified = given.unverified
    if unverified is not True and not (isinstance(unverified, list) and vector in unverified):
        if vector in reader.file.vector and reader.file.vector[vector].verify is None:
            hint = f'give [vector.{vector}] a verify table, or say unverified = ["{vector}"]'
            reader.file.problem(at, f"vector '{vector}' is not verified", hint)
        return None
    return _unverified(reader, at, vector, step, good)


def _listed(
    reader: Reader, where: Where, given: Merged, target: str, at: int, entry: Listed, base: str | None, steps: list[str]
) -> _Taken | None:
    """An entry of the list form: a named vector, or one that only this merge has."""
    place = (*where, "vectors")
    if entry.vector is not None:
        return _named(reader, where, given, entry.vector, entry.coefficient, base)
    label = entry.path or entry.hub or entry.adapter or entry.of or ""
    good = _coefficient(reader, place, label, entry.coefficient)
    step = f"{target}:{at}"
    own = vectors.taken(reader, step, target, place, entry, base)
    steps += own
    unverified = given.unverified
    if unverified is not True and not (isinstance(unverified, list) and label in unverified):
        hint = 'say unverified = true, or give it a [vector.*] table with "verify"'
        reader.file.problem(place, f"vector '{label}' is not verified", hint)
        return None
    return _unverified(reader, place, label, step, good) if own and good is not None else None


def _unverified(reader: Reader, at: Where, label: str, step: str, coefficient: Any) -> _Taken | None:
    if coefficient == "auto":
        reader.file.problem(at, f"'auto' needs a verified vector, and '{label}' is not verified")
        return None
    return _Taken(label, step, "", coefficient)


def _coefficient(reader: Reader, at: Where, vector: str, given: Any) -> Any:
    """The coefficient in its normal form, or None where it is none."""
    if given == "auto":
        return given
    wrong = recipes.problem(given)
    if wrong:
        flat = f"{shown(given)}, expected a number or 'auto'" if not isinstance(given, (list, dict)) else f"wrong: {wrong}"
        reader.file.problem(at, f"the coefficient of '{vector}' is {flat}", _SPELLINGS)
        return None
    return recipes.normal(given)


_SPELLINGS = "a coefficient is a number, 'auto', a list over depth, or a table of tensor patterns"


def _fits(reader: Reader, at: Where, vector: str, step: str, given: Merged, base: str | None) -> bool:
    """A vector is added to its own base, to a model that descends from it, or to another one where that is asked for."""
    own = reader.base_of(step)
    if base is None or own is None or given.other_base:
        return True
    if reader.descends(base, own):
        return True
    hint = "other_base = true adds it to a base of the same shapes all the same"
    reader.file.problem(at, f"vector '{vector}' was taken from {own}, and this merge is on {base}", hint)
    return False


def _together(reader: Reader, where: Where, given: Merged, found: list[_Taken]) -> None:
    """What is wrong with vectors that are right one by one."""
    wanted = methods.VECTORS_TAKEN.get(given.method)
    if wanted is not None and len(found) != wanted:
        many = f"{wanted} vector{'s' * (wanted > 1)}"
        hint = "slerp goes from the base to one model; nuslerp lies between two" if given.method in ("slerp", "nuslerp") else ""
        reader.file.problem((*where, "vectors"), f"'{given.method}' takes {many}, and there are {len(found)}", hint)
    if any(one.coefficient == "auto" or any(recipes.numbers(one.coefficient)) for one in found):
        return
    if given.method in methods.NORMALIZED and given.options.get("normalize", True):
        reader.file.problem((*where, "vectors"), f"the coefficients sum to 0, and '{given.method}' divides by their sum")
    else:
        text = (
            "a merge of one vector with coefficient 0 is the base" if len(found) == 1 else "all coefficients are 0: the merge is the base"
        )
        reader.file.problem((*where, "vectors", found[0].label), text)


def _notes(found: list[_Taken]) -> tuple[str, ...]:
    """What a user should know of a recipe that is not wrong."""
    large = [(one.label, low) for one in found if (low := min(recipes.numbers(one.coefficient), default=0.0)) < -_LARGE_NEGATION]
    return tuple(
        f"warning: coefficient {low:g} of {label}: large negation is unstable, {-_LARGE_NEGATION:g} is usually enough"
        for label, low in large
    )
