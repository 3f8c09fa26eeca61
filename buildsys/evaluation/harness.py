"""Tasks of lm-evaluation-harness, asked of a model in memory. Owns the call and what comes back; knows no gate."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildsys.action import canonical_bytes, digest_of
from buildsys.errors import BuildError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from buildsys.rules.evaluate import Task


def scores(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, files: Mapping[str, Path]) -> dict[str, Any]:
    """One number for each document of a task, and the hash of each document.

    files  of the folder that the task is defined in, by their names inside it; none for a task that lm-eval brings

    Raises BuildError where the package is absent, the task is unknown to it, or the metric is none of a single document.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise BuildError(
            "lm_eval tasks need a package that is not installed", [("reason", str(error))], "pip install 'buildsys[eval]'"
        ) from error
    with _folder(files):
        try:
            manager = TaskManager(include_path=os.curdir if files else None, include_defaults=not files)
            found = simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=task.batch_size),
                tasks=[task.task],
                num_fewshot=task.num_fewshot,
                limit=task.limit,
                task_manager=manager,
                bootstrap_iters=0,
                log_samples=True,
                random_seed=task.seed,
                numpy_random_seed=task.seed,
                torch_random_seed=task.seed,
                fewshot_random_seed=task.seed,
            )
        except Exception as error:  # whatever a task's definition makes of it
            reason = str(error).strip().splitlines()
            facts = [(type(error).__name__, reason[0] if reason else "")]
            raise BuildError(f"lm_eval could not run task '{task.task}'", facts, "its log has the whole message") from error
    if task.task not in found["samples"]:
        raise BuildError(f"'{task.task}' is a group of tasks", hint=f"name one of {', '.join(found['samples'])}")
    samples = _of_one_filter(found["samples"][task.task], task)
    known = sorted(name for name, value in samples[0].items() if isinstance(value, (int, float)) and name != "doc_id")
    if task.metric not in known:
        hint = f"metrics of single documents are {', '.join(known) or 'none'}"
        raise BuildError(f"task '{task.task}' has no metric '{task.metric}'", hint=hint)
    numbers = [float(sample[task.metric]) for sample in samples]
    for document, one in enumerate(numbers, 1):
        if not math.isfinite(one):
            raise BuildError(f"task '{task.task}' gave {one} for document {document}")
    documents = [digest_of(canonical_bytes(_plain(sample["doc"]))) for sample in samples]
    return {"scores": numbers, "documents": documents}


def _of_one_filter(samples: Sequence[dict[str, Any]], task: Task) -> list[dict[str, Any]]:
    """One sample a document: those of the filter that is named, or of the only one."""
    filters = list(dict.fromkeys(str(sample.get("filter", "none")) for sample in samples))
    wanted = task.filter or (filters[0] if len(filters) == 1 else None)
    if wanted not in filters:
        hint = f"say filter = … in lm_eval: {', '.join(filters)}"
        raise BuildError(
            f"task '{task.task}' has {len(filters)} filters" if task.filter is None else f"there is no filter '{task.filter}'", hint=hint
        )
    return [sample for sample in samples if str(sample.get("filter", "none")) == wanted]


@contextlib.contextmanager
def _folder(files: Mapping[str, Path]) -> Iterator[None]:
    """A folder with a task's files under their names, in which its relative paths mean what they say."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as made:
        for name, source in files.items():
            place = Path(made) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)  # lm-eval resolves links, and looks for functions beside what they lead to
        import datasets

        kept = datasets.config.HF_DATASETS_CACHE
        if files:
            os.chdir(made)
            datasets.config.HF_DATASETS_CACHE = Path(made) / ".datasets"  # else every evaluation would leave a copy with the user
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = kept
            os.chdir(before)


def _plain(value: Any) -> Any:
    """A document as canonical JSON takes it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, bool, type(None))) else repr(value)
