"""`verify` tables: held-out rows and control sets evaluated, a coefficient searched where that is asked for, gates judged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from buildsys import outside
from buildsys.declared import provenance
from buildsys.declared.reader import EvaluationSet, Inputs, Reader, Verified, Where
from buildsys.evaluation import tasks
from buildsys.evaluation.names import FALLING, FEWEST_ROWS, KINDS, SHARES
from buildsys.graph import Output, Rows, Step, Target, Text, Value
from buildsys.rules import search
from buildsys.tables.verify import Control, Measure, Verify

_CODE_BYTES_MAX = 1_000_000  # of a file of Python


def evaluation_set(
    reader: Reader, where: Where, given: Measure, metric: str, max_length: int, template_date: str, rows: Rows | Output | None, shape: str
) -> EvaluationSet | None:
    """The set that a table describes; None where something is wrong with it, which is reported.

    shape  of the rows, "" where they are not known
    """
    kind = KINDS[metric]
    if metric == "preference" and shape not in ("preference", ""):
        text = f"metric 'preference' needs rows with 'rejected'; {_named(reader, rows)} has {shape} rows"
        reader.file.problem((*where, "metric"), text)
    if kind == "generations" and shape == "text":
        reader.file.problem((*where, "metric"), f"metric '{metric}' needs prompts; {_named(reader, rows)} has text rows")
    spec: dict[str, Any] = {"kind": kind, "files": [], "template_date": template_date}
    files: tuple[Text, ...] = ()
    if kind == "answers":
        spec["max_length"] = max_length
    if kind == "generations":
        spec["generate"] = given.generate.model_dump() if given.generate is not None else {}
    if given.judge is not None:
        name = f"{given.judge.partition(':')[0].replace('.', '/')}.py"
        files, spec["judge"] = (Text(reader.place(name), _CODE_BYTES_MAX),), given.judge
        spec["files"] = [name]
        if reader.observer.size(files[0].path) is None:
            reader.file.problem((*where, "judge"), f"'{name}' is not there", "a judge is a function of a file beside the Buildfile")
            return None
        reader.check(files[0])
    if given.lm_eval is not None:
        spec["lm_eval"] = given.lm_eval.model_dump() | {"include": None}
        spec["lm_eval_version"] = _version("lm_eval")
        if given.lm_eval.include is not None:
            folder = reader.place(given.lm_eval.include)
            found = reader.observer.glob(folder, "**/*")
            named = {os.path.relpath(path, folder): path for path in found if reader.observer.size(path) is not None and path.is_file()}
            if not named:
                reader.file.problem(
                    (*where, "lm_eval"), f"'{given.lm_eval.include}' holds no file", "name the folder that defines the task"
                )
                return None
            spec["files"] = sorted(named)
            for name in (name for name in named if name.endswith((".yaml", ".yml"))):
                if wrong := reader.observer.derived(named[name], "task definition", tasks.problem):
                    line, _, text = wrong.partition(" ")
                    reader.file.problem((*where, "lm_eval"), f"line {line} of {name} {text}", "put what a task reads into its folder")
            files = tuple(Text(named[name], _CODE_BYTES_MAX) if name.endswith(".py") else Text(named[name]) for name in spec["files"])
            for file in files:
                reader.check(file)
    return EvaluationSet(spec, {"metric": metric, "contains": given.texts(), "regex": given.regex or ""}, rows, files)


def add(
    reader: Reader,
    name: str,
    where: Where,
    verify: Verify,
    base: str,
    rows: Rows | Output | None,
    shape: str,
    node: str | None,
    trained: Sequence[Rows | Output],
) -> None:
    """Evaluate a vector on its rows and on each control set, then judge.

    rows     those of the behaviour, None for a task of lm-eval; shape: theirs
    trained  what the vector, or a part of it, was trained on or kept by: no row may be in both
    """
    target, at = f"verified-{name}", (*where, "verify")
    metric = verify.named("preference" if shape == "preference" else "loss")
    if isinstance(rows, Rows):
        place = (*at, "rows") if rows.part == "all" else (*where, "train", "keep")  # a held-out part is none that was trained on
        provenance.apart(reader, place, rows, trained)
    if isinstance(rows, Rows) and rows.part == "all":
        provenance.distinct(reader, (*at, "rows"), rows)
        number = int(outside.parsed_rows(rows, reader.observer)["number"])
        if number < 2 * FEWEST_ROWS:
            hint = f"give at least {4 * FEWEST_ROWS}: a coefficient is chosen on one half and judged on the other"
            reader.file.problem((*at, "rows"), f"{number} rows to verify on are too few for any interval", hint)
    date = verify.template_date or reader.file.build.template_date
    own = evaluation_set(reader, at, verify, metric, verify.max_length, date, rows, shape)
    tables = verify.controls().values()
    sets = [own, *(control_set(reader, (*at, "control"), control, verify.max_length, date, trained) for control in tables)]
    if any(one is None for one in sets):
        return
    known = [one for one in sets if one is not None]
    _unreachable(reader, at, verify, metric)
    controls = list(verify.controls())
    reader.verified[name] = Verified(
        known[0],
        dict(zip(controls, known[1:], strict=True)),
        {control: table.min_metric for control, table in verify.controls().items()},
        verify.threads,
    )
    gates = {
        **known[0].measure,
        "direction": verify.direction,
        "min_gain": verify.min_gain,
        "min_metric": verify.min_metric,
        "reduce": verify.reduce,
        "confidence": verify.confidence,
        "seed": reader.file.build.seed,
        "controls": [
            {**one.measure, "max_forgetting": verify.gate(control), "min_metric": verify.controls()[control].min_metric}
            for control, one in zip(controls, known[1:], strict=True)
        ],
    }
    labels = {"controls": controls}
    subject: Inputs = {"base": Output(base), "vector": Output(f"vector-{name}")}
    steps: list[Step] = []
    asked = [one.rows for one in known if one.rows is not None]
    looked = provenance.apart_when_built(reader, f"{target}:apart", target, asked, trained)
    coefficients = _coefficients(reader, target, verify, subject, known, gates, labels, steps, tuple(looked))
    evaluated = [f"{target}:rows", *(f"{target}:control-{control}" for control in controls)]
    for step, one in zip(evaluated, known, strict=True):
        parameters = {**one.spec, "coefficients": coefficients, "threads": verify.threads}
        steps.append(Step(step, target, "evaluate", parameters, {**subject, **one.inputs()}, tuple(looked)))
    judged: Inputs = {"rows": Output(evaluated[0]), "controls": tuple(Output(step) for step in evaluated[1:])}
    named = gates | {"control_names": controls}  # a verdict shows them
    labels = {**labels, "control_names": controls}
    steps.append(Step(target, target, "judge", named, judged, tuple(looked), labels, judges=True))
    reader.add(*steps)
    fetched = [rows.step] if isinstance(rows, Output) else []
    reader.targets.append(Target(target, "verified", target, (*fetched, *looked, *(step.name for step in steps)), node))


def _coefficients(
    reader: Reader, target: str, verify: Verify, subject: Inputs, sets: list[EvaluationSet], gates: dict[str, Any],
    labels: dict[str, list[str]], steps: list[Step], after: tuple[str, ...],
) -> list[float] | Value:  # fmt: skip
    """Those of the table, signed; or what a search will find, whose step is added."""
    if isinstance(verify.coefficients, list):
        sign = -1.0 if verify.direction == "reduce" else 1.0
        return [sign * one for one in sorted(set(verify.coefficients))]
    settings = search.Settings() if verify.coefficients == "search" else verify.coefficients
    inputs = dict(subject)
    own, *controls = sets
    if own.rows is not None:
        inputs["rows"] = own.rows
    rows = tuple(one.rows for one in controls if one.rows is not None)
    files = tuple(file for one in sets for file in one.files)
    inputs |= ({"controls": rows} if rows else {}) | ({"files": files} if files else {})
    parameters = {**settings.model_dump(), **gates, "threads": verify.threads, "sets": [one.spec for one in sets]}
    parameters["has_rows"] = [one.rows is not None for one in sets]
    step = f"{target}:search"
    steps.append(Step(step, target, "search", parameters, inputs, after, labels, {"names": labels["controls"]}))
    return Value(step, "coefficients.json", "coefficients")


def control_set(
    reader: Reader, where: Where, given: Control, max_length: int, template_date: str, trained: Sequence[Rows | Output]
) -> EvaluationSet | None:
    """A control set as a table gives it."""
    if given.min_metric is not None and given.named("loss") in FALLING:
        reader.file.problem(where, f"of '{given.named('loss')}' less is better, so min_metric means nothing", "max_forgetting is its gate")
    if given.rows is None and given.lm_eval is None:
        reader.file.problem(where, "a control set needs 'rows', or a task of lm_eval")
        return None
    rows = None if given.rows is None else reader.rows(where, given.rows, "all")
    if given.rows is not None and rows is None:
        return None
    if rows is not None:
        provenance.distinct(reader, where, rows)
        provenance.apart(reader, where, rows, trained)
    shape = outside.parsed_rows(rows, reader.observer)["shape"] if rows is not None else ""
    return evaluation_set(reader, where, given, given.named("loss"), max_length, template_date, rows, shape)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""  # said when it is needed


def _unreachable(reader: Reader, at: Where, verify: Verify, metric: str) -> None:
    """Gates that no vector could pass."""
    if verify.reduce is not None and metric not in SHARES:
        hint = f"metrics that have odds are {', '.join(SHARES)}"
        reader.file.problem((*at, "reduce"), f"'{metric}' has no odds that could fall {verify.reduce:g} times", hint)
    if verify.min_metric is not None and metric in FALLING:
        reader.file.problem((*at, "min_metric"), f"of '{metric}' less is better", "min_gain is how much of it has to go, as a share")
    elif verify.min_metric is not None and metric in SHARES and verify.min_metric >= 1:
        reader.file.problem((*at, "min_metric"), f"no interval of '{metric}' reaches {verify.min_metric:g}: it is a share, below 1")


def _named(reader: Reader, rows: Rows | Output | None) -> str:
    return os.path.relpath(rows.path, reader.root) if isinstance(rows, Rows) else rows.step if rows is not None else "the task"
