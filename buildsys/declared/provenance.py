"""Which rows a vector's training has seen, and that nothing is verified, checked or tuned on rows that it may not see."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from buildsys import outside
from buildsys.declared.reader import Reader, Where
from buildsys.errors import UsageError
from buildsys.examples.rows import Part, numbered
from buildsys.graph import Output, Rows, Step
from buildsys.tables import Behavior, Vector

Seen = Sequence[Rows | Output]


@dataclass(frozen=True)
class Rule:
    """others  what the rows also stand among; headline: what a build says that finds them; hint: the way out"""

    others: str
    headline: str
    hint: str


TRAINED = Rule(
    "the training rows",
    "rows of a verification were trained on",
    "what was trained on verifies nothing: take these rows out of one of the two files",
)
TUNED = Rule("the rows that tune the merge", "rows that judge a merge would tune it", "rows that judge a merge may not tune it")


def trained_on(reader: Reader, name: str) -> list[Rows | Output]:
    """The rows that a vector was trained on, those of its parts for one that is made of others: files, or steps that fetch them."""
    found: list[Rows | Output] = []
    for one in _trained(reader, name):
        table = reader.file.behavior.get(one) or reader.file.vector.get(one)
        if isinstance(table, Vector) and table.icl is not None:
            found.append(Rows(reader.place(table.icl.examples)))
        if not isinstance(table, Behavior):
            continue
        part: Part = "train" if table.verify.rows is None and table.verify.lm_eval is None else "all"
        if table.examples is None:
            own = reader.node_rows(table.node or "", part)
            found += [own] if own is not None else []
        else:
            found.append(Rows(reader.place(table.examples), part) if isinstance(table.examples, str) else Output(f"vector-{one}:examples"))
    return found


def seen_by(reader: Reader, name: str) -> list[Rows | Output]:
    """The rows that a vector was trained on, and those that its training held still."""
    tables = [reader.file.behavior[one] for one in _trained(reader, name) if one in reader.file.behavior]
    kept = [path for table in tables if table.train.keep is not None for path in table.train.keep.files()]
    return [*trained_on(reader, name), *(Rows(reader.place(path)) for path in kept)]


def _trained(reader: Reader, name: str) -> list[str]:
    """The vectors that a vector comes from, itself included: parts of a sum or an analogy, those of a model that it is taken from.

    name  of a table, or a merge's list calls it by the model that it is taken from
    """
    walk = [name]
    walked: dict[str, None] = {}
    while walk:
        part = walk.pop()
        if part not in walked:
            walked[part] = None
            walk += reversed(_parts(reader, part))
    return list(walked)


def _parts(reader: Reader, name: str) -> list[str]:
    if name in reader.file.behavior:
        return []
    table = reader.file.vector.get(name)
    if table is None:
        return _in_model(reader, name)
    named = table.analogy
    parts = list(table.sum or {}) or ([named.c, named.b, named.a] if named is not None else [])
    return parts + _in_model(reader, table.of or "")


def _in_model(reader: Reader, model: str) -> list[str]:
    """The vectors in a merged model and in those that it is made on, by its full name."""
    vectors: dict[str, None] = {}
    walk, walked = [model], set()
    while walk:
        model = walk.pop()
        merged = reader.file.merged.get(model.removeprefix("merged-")) if model.startswith("merged-") else None
        if merged is None or model in walked:
            continue
        walked.add(model)
        listed = [] if isinstance(merged.vectors, dict) else merged.vectors
        taken = merged.vectors if isinstance(merged.vectors, dict) else [one.vector for one in listed if one.vector is not None]
        vectors |= dict.fromkeys(taken)
        below = [merged.base] if isinstance(merged.base, str) else []
        walk += reversed([*(one.of for one in listed if one.of is not None), *below])
    return list(vectors)


def distinct(reader: Reader, where: Where, tested: Rows) -> None:
    """Report rows that stand twice in an evaluation."""
    seen: set[str] = set()
    twice = []
    for at, (_, whole) in enumerate(_digests(reader, tested), 1):
        if whole in seen:
            twice.append(at)
        seen.add(whole)
    if twice:
        text = f"{_these(twice)} of {_shown(reader, tested)} stand{'s' * (len(twice) == 1)} there a second time"
        reader.file.problem(where, text, "a row that counts twice makes every interval narrower than it is")


def apart(reader: Reader, where: Where, tested: Rows, others: Seen, rule: Rule = TRAINED) -> None:
    """Report rows of an evaluation that stand among others. Of rows that a build fetches, the step of `apart_when_built` does."""
    own = _asked(reader, tested)
    known = {one for source in others if isinstance(source, Rows) for one in own & _asked(reader, source)}
    every = _digests(reader, replace(tested, part="all")) if known else []
    both = [at for at, (asked, _) in enumerate(every, 1) if asked in known]
    if both:
        also = "also stands" if len(both) == 1 else "also stand"
        reader.file.problem(where, f"{_these(both)} of {_shown(reader, tested)} {also} in {rule.others}", rule.hint)


def apart_when_built(reader: Reader, step: str, target: str, tested: Seen, others: Seen, rule: Rule = TRAINED) -> list[str]:
    """The step that looks for rows of evaluations among others, where a build has to fetch some of them; none elsewhere."""
    tested, others = list(dict.fromkeys(tested)), list(dict.fromkeys(others))
    if not (tested and others and any(isinstance(one, Output) for one in [*tested, *others])):
        return []
    called = {"rows": [_called(reader, one) for one in tested], "others": [_called(reader, one) for one in others]}
    said = {"headline": rule.headline, "hint": rule.hint}
    reader.add(Step(step, target, "apart", {}, {"rows": tuple(tested), "others": tuple(others)}, settings=called | said))
    return [step]


def _called(reader: Reader, one: Rows | Output) -> str:
    if isinstance(one, Rows):
        return _shown(reader, one)
    given = reader.steps[one.step].parameters
    return f"{given['hub']}{', held out' if given['part'] == 'held-out' else ''}"


def _these(places: Sequence[int]) -> str:
    return f"row{'s' * (len(places) > 1)} {numbered(places)}"


def _shown(reader: Reader, source: Rows) -> str:
    return os.path.relpath(source.path, reader.root)


def _asked(reader: Reader, source: Rows) -> frozenset[str]:
    """What the rows ask and answer; one source is compared with many."""
    if source not in reader.asked:
        reader.asked[source] = frozenset(asked for asked, _ in _digests(reader, source))
    return reader.asked[source]


def _digests(reader: Reader, source: Rows) -> list[tuple[str, str]]:
    """Of each row; none where the file is not there or has bad rows, which is reported elsewhere."""
    try:
        return outside.row_digests(source, reader.observer) if reader.observer.size(source.path) is not None else []
    except UsageError:
        return []
