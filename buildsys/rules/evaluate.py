"""A base, maybe a vector, and rows -> what the model says to every row at every coefficient. Measures; judges nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from buildsys.action import Digest
from buildsys.evaluation.names import Kind
from buildsys.measurements import Measurements
from buildsys.progress import Progress
from buildsys.rules import MODELS, Commit, Inputs, Rendering, Strict

if TYPE_CHECKING:
    from buildsys.evaluation.sets import EvaluationSet

VERSION = 2
ROLES = {
    "base": "model folder",
    "vector": "vector (none: the model alone)",
    "rows": "rows (none for a task of lm-eval)",
    "files": "a judge's source, or the files of a task",
}
PRELOAD = (*MODELS, "buildsys.evaluation.score")
FLUSH = False
MEASURES = True
RENDERS = "base"


class Generate(Strict):
    """How the model's own words are asked for."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0  # 0: the likeliest token
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


_TASK = re.compile(r"[A-Za-z0-9][\w.()-]*", re.ASCII)


def _task_name(name: str) -> str:
    """A name as lm-eval's index has it: a path would be loaded as it stands, with the functions that it names."""
    if _TASK.fullmatch(name) is None or name.endswith((".yaml", ".yml", ".py")):
        raise ValueError(f"task '{name}' is not a name that lm-eval lists: a task of the project's own needs include = \"FOLDER\"")
    return name


class Task(Strict):
    """A task of lm-evaluation-harness, by that package's names."""

    task: Annotated[str, AfterValidator(_task_name)]
    metric: str = "acc"  # one that a single document has
    filter: str | None = None  # where a task has several
    include: str | None = None  # folder that defines the task
    revision: Commit | None = None  # of its data set on the Hub
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1)] | None = None  # documents
    batch_size: Annotated[int, Field(ge=1)] = 8
    seed: Annotated[int, Field(ge=0)] = 0

    @model_serializer(mode="wrap")
    def _without_an_absent_revision(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it was before there was one, or the keys of tasks with files of their own would be others."""
        return {name: value for name, value in plain(self).items() if name != "revision" or value is not None}


class Spec(Rendering):
    """What is asked of a model on one set of rows; a metric is made of the answers later."""

    kind: Kind = "answers"
    max_length: Annotated[int, Field(ge=2)] = 1024
    generate: Generate = Generate()
    judge: str = ""  # "module:function"
    lm_eval: Task | None = None
    lm_eval_version: str = ""
    files: list[str] = []  # the names of the files that come with it


class Params(Spec):
    coefficients: list[Any]  # 0, the base itself, is always measured as well
    threads: Annotated[int, Field(ge=1)] = 1


def run(inputs: Inputs, params: Params, out: Path, progress: Progress) -> dict[str, Any]:
    from buildsys.evaluation.subject import Subject
    from buildsys.tensors import models

    models.deterministic(0, params.threads)
    asked = opened(params, inputs.paths.get("rows"), inputs.paths.get("files", []))
    measurements = Measurements.of(progress)
    coefficients = [0.0, *params.coefficients]
    numbers = []
    rows = inputs.digests.get("rows", "")
    with Subject(inputs["base"], inputs.paths.get("vector")) as subject:
        for position, coefficient in enumerate(coefficients):
            progress(f"coefficient {coefficient:g}" if isinstance(coefficient, float) else "evaluating", position / len(coefficients))
            document = measured(params, params.threads, inputs.digests, rows, inputs.digests.get("files", []), coefficient)
            numbers.append(measurements.get(document, lambda at=coefficient: asked.numbers(subject.at(at), subject.tokenizer)))  # type: ignore[misc]
    found = recorded(asked, coefficients, numbers)
    (out / "evaluation.json").write_text(json.dumps(found))
    return {"n": len(found["half"]), "measured": measurements.made, **asked.facts}


def opened(spec: Spec, rows: Path | None, files: list[Path]) -> EvaluationSet:
    from buildsys.evaluation.sets import EvaluationSet
    from buildsys.examples.rows import read as read_rows

    return EvaluationSet(spec, read_rows(rows) if rows is not None else [], files)


def measured(spec: Spec, threads: int, digests: Any, rows: Digest, files: list[Digest], coefficient: Any) -> dict[str, Any]:
    """The document of one measurement: all that decides it. At 0 every vector of a base shares one; a merge's model has no vector."""
    own = spec.model_dump(include=set(Spec.model_fields))
    found = {"evaluate": VERSION, "spec": own, "threads": threads, "base": digests["base"], "rows": rows, "files": files}
    if "vector" in digests and coefficient != 0:
        found |= {"vector": digests["vector"], "coefficient": coefficient}
    return found


def recorded(asked: EvaluationSet, coefficients: list[Any], numbers: list[dict[str, Any]]) -> dict[str, Any]:
    """An evaluation: for every coefficient the numbers of all rows, and for every row the half of the set that it belongs to."""
    from buildsys.examples.rows import HELD_OUT_SHARE

    documents = numbers[0].get("documents")
    return {
        "kind": asked.spec.kind,
        "shape": asked.shape,
        "coefficients": coefficients,
        "half": asked.half if documents is None else [int(name[:12], 16) // HELD_OUT_SHARE % 2 for name in documents],
        "expected": asked.expected if asked.spec.kind == "generations" else [],
        "numbers": numbers,
    }
