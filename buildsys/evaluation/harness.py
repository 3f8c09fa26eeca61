"""Tasks of lm-evaluation-harness, asked of a model in memory. Owns the call and what comes back; knows no gate."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from buildsys.action import canonical_bytes, digest_of
from buildsys.errors import BuildError, nearest
from buildsys.evaluation import tasks

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from buildsys.rules.evaluate import Task


def scores(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, files: Mapping[str, Path]) -> dict[str, Any]:
    """One number for each document of a task, and the hash of each document.

    files  of the folder that the task is defined in, by their names inside it; none for a task that lm-eval brings

    Raises BuildError where the package is absent, its index has no such task, the task's data is pinned by nothing, or the metric is
    none of a single document. Until all that is checked, nothing of the task is loaded.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise BuildError(
            "lm_eval tasks need a package that is not installed", [("reason", str(error))], "pip install 'buildsys[eval]'"
        ) from error
    with _folder(files) as folder:
        try:
            index = TaskManager(include_path=os.curdir if files else None, include_defaults=not files)
            manager = TaskManager(include_path=str(_pinned(index, task, list(files), folder)), include_defaults=False)
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
        except (KeyboardInterrupt, SystemExit, BuildError):
            raise
        except BaseException as error:  # whatever a task's definition makes of it; a panic of the tokenizer's is not an Exception
            reason = str(error).strip().splitlines()
            facts = [(type(error).__name__, reason[0] if reason else "")]
            raise BuildError(f"lm_eval could not run task '{task.task}'", facts, "its log has the whole message") from error
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


def _pinned(index: TaskManager, task: Task, names: Sequence[str], folder: Path) -> Path:
    """A folder whose only definition is that of the task, with its data pinned."""
    import lm_eval.tasks

    entry = index.task_index.get(task.task)
    if entry is None or entry.kind.name not in ("TASK", "PY_TASK") or entry.yaml_path is None:
        _raise_unknown(index, task)
    root = folder if names else Path(lm_eval.tasks.__file__).parent
    given = tasks.definition(entry.yaml_path, root)
    if tasks.plain(given) != entry.cfg:
        raise BuildError(f"lm_eval reads the definition of task '{task.task}' in another way", hint="use a version of it that is known")
    made = folder.parent / "pinned"
    made.mkdir()
    overrides = {"include": str(entry.yaml_path.resolve()), "task": task.task, **tasks.pinned(task, given, names)}
    (made / "task.yaml").write_text(json.dumps(overrides))
    return made


def _raise_unknown(index: TaskManager, task: Task) -> NoReturn:
    entry = index.task_index.get(task.task)
    if entry is None:
        close = nearest(task.task, index.all_subtasks)
        hint = f"did you mean '{close}'?" if close else f"tasks are {', '.join(index.all_subtasks[:10]) or 'none'}"
        raise BuildError(f"lm_eval has no task '{task.task}'", hint=hint)
    members = sorted(entry.tags) if entry.kind.name == "TAG" else [one for one in (entry.cfg or {}).get("task", []) if isinstance(one, str)]
    raise BuildError(f"'{task.task}' is a group of tasks", hint=f"name one of {', '.join(members[:10])}")


@contextlib.contextmanager
def _folder(files: Mapping[str, Path]) -> Iterator[Path]:
    """An own folder with a task's files under their names, and no other: what its relative paths and names of data sets mean."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as parent:
        made = Path(parent).resolve() / "task"
        made.mkdir()
        for name, source in files.items():
            place = made / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)  # lm-eval resolves links, and looks for functions beside what they lead to
        import datasets

        kept = datasets.config.HF_DATASETS_CACHE
        os.chdir(made)
        datasets.config.HF_DATASETS_CACHE = Path(parent) / "datasets"  # nothing old is read, and no copy is left with the user
        try:
            yield made
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
