"""What the definition of a lm-eval task may name: files of its own folder, and data that is pinned. Loads neither a task nor lm-eval.

`problem` looks at one file of a project's folder, when the Buildfile is read. `pinned` looks at a whole definition, just before it is
loaded: where its data comes from is replaced by where it is pinned, so that nothing else can be read.
"""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from buildsys import hub, regular
from buildsys.errors import BuildError

if TYPE_CHECKING:
    from buildsys.rules.evaluate import Task

BYTES_MAX = 1 << 16  # of one definition
_INCLUDED_BYTES_MAX = 10_000_000  # of one of lm-eval's own, which hold whole examples
_CARD_BYTES_MAX = 10_000_000  # of the card of a data set
VALUES_MAX = 100_000  # of one definition, repeated ones counted as often as they are repeated
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FUNCTION = re.compile(r"\w+([./]\w+)*\.\w+")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_LOCAL = ("json", "csv", "parquet", "text")  # readers of `datasets` for files; others unpickle, or look for files by themselves
_FILES = [f"**/*{suffix}" for suffix in (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz", ".zst", ".md")]
_ELSEWHERE = ("use_prompt", "custom_dataset", "class")  # each can read data that no key knows
_SOURCES = ("include", "dataset_path", "data_files", "data_dir")  # name files, of which a key has those of the folder
_HOW = ("column_names", "header", "names", "sep", "delimiter", "field", "features")  # of dataset_kwargs: how data is read, not which
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "timestamp", "merge")}


@dataclass(frozen=True)
class Function:
    """A value of `!function`, which is not loaded."""

    folder: Path
    spec: str

    def __str__(self) -> str:  # as lm-eval's index has it
        return str(self.folder / self.spec)


def problem(path: str) -> str:
    """What is wrong with a definition of the project's own, after its line: "6 names a file …"; "" for nothing.

    Refused are files outside its folder, Python objects, and keys that read data which no key knows.
    """
    if regular.check(path) > BYTES_MAX:
        return f"1 is of a file above {BYTES_MAX >> 10} KiB"
    try:
        nodes = _nodes(_composed(regular.read(path, BYTES_MAX)))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        return f"{line} is not YAML: {error.problem}"
    except (yaml.YAMLError, ValueError, RecursionError):
        return "1 is of a file that is not YAML, or too deep"
    problems = [(node.start_mark.line + 1, text) for node, key in nodes if (text := _node_problem(node, key))]
    return "{} {}".format(*min(problems)) if problems else ""


def _composed(data: bytes) -> yaml.Node | None:
    """The document as nodes. Raises YAMLError for one that repeats itself into more values than memory has room for."""
    root = yaml.compose(data, Loader=yaml.SafeLoader)  # the compiled parser has no limit of depth but the stack
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = VALUES_MAX  # of one that holds itself
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            sizes[id(node)] = 1 + sum(size(one) for value in inner for one in (value if isinstance(value, tuple) else (value,)))
        return sizes[id(node)]

    if root is not None and size(root) > VALUES_MAX:
        raise yaml.YAMLError(f"more than {VALUES_MAX} values")
    return root


def _nodes(root: yaml.Node | None) -> list[tuple[yaml.Node, str]]:
    """(node, the key of a task that it stands under, or "") of everything in a document, each once whatever repeats it."""
    waiting: list[tuple[yaml.Node, str, bool]] = [] if root is None else [(root, "", True)]
    seen: dict[tuple[int, str, bool], tuple[yaml.Node, str]] = {}
    while waiting:
        node, key, defines = waiting.pop()
        if (id(node), key, defines) in seen:
            continue
        seen[id(node), key, defines] = node, key
        if isinstance(node, yaml.SequenceNode):
            waiting += [(value, key, defines) for value in node.value]
        elif isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                inner = str(name.value) if defines and isinstance(name, yaml.ScalarNode) else ""
                waiting.append((name, "", False))
                waiting.append((value, key if key in _SOURCES else inner, inner in ("task", "dataset_kwargs")))
    return list(seen.values())


def _node_problem(node: yaml.Node, key: str) -> str:
    if node.tag == "!function":
        if not isinstance(node, yaml.ScalarNode) or not _FUNCTION.fullmatch(node.value):
            return "names a function outside its folder"
    elif node.tag not in _TAGS:
        return f"has the tag {node.tag}, which is not one of data"
    if key in _ELSEWHERE and not node.tag.endswith(":null"):
        return _unkeyed(key)
    if key in _SOURCES and isinstance(node, yaml.ScalarNode) and not is_inside(node.value):
        return "names a file outside its folder, which would be in no key"
    return ""


def _unkeyed(key: str) -> str:
    return f"has '{key}', which can read data that is in no key"


def is_inside(name: str) -> bool:
    """True for a relative path that stays where it begins."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith(("/", "~")) and ".." not in parts and "://" not in name and "\\" not in name


def definition(path: Path, root: Path) -> dict[str, Any]:
    """A task's definition with what it includes, functions unloaded. Raises BuildError for an include that leads out of `root`."""
    return _included(path.resolve(), root.resolve(), [])


def _included(path: Path, root: Path, trail: list[Path]) -> dict[str, Any]:
    """As lm-eval merges it: later includes over earlier ones, the file's own keys over all."""
    if not path.is_relative_to(root) or path in trail:
        raise BuildError("a task includes a file outside its folder", [("file", path.name)], "put what a task reads into its folder")

    class Loader(yaml.SafeLoader):  # of this file: a function is looked for beside it
        pass

    Loader.add_constructor("!function", lambda loader, node: Function(path.parent, str(node.value)))
    own = yaml.load(regular.read(path, _INCLUDED_BYTES_MAX), Loader=Loader)
    if not isinstance(own, dict):
        raise BuildError("a task's definition is not a table", [("file", path.name)])
    includes = own.pop("include", [])
    merged: dict[str, Any] = {}
    for name in includes if isinstance(includes, list) else [includes]:
        inner = _included((path.parent / str(name)).resolve(), root, [*trail, path])
        inner.pop("task_list", None)
        merged |= inner
    return merged | own


def plain(value: Any) -> Any:
    """A definition with functions as lm-eval's index spells them."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Function) else value


def pinned(task: Task, given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The keys that replace a definition's own: its data from files of the task's folder, or from one revision on the Hub.

    given  the definition; names: the files of the task's folder, none for a task that lm-eval brings

    Raises BuildError for data that is pinned by nothing, and for what would run code from the Hub.
    """
    for key in _ELSEWHERE:
        if given.get(key) is not None:
            raise _refused(task, f"has '{key}', which can read data that is in no key")
    if given.get("unsafe_code"):
        raise _refused(task, "runs what the model writes, as code")
    settings = {name: value for name, value in (given.get("dataset_kwargs") or {}).items() if name != "trust_remote_code"}
    path = given.get("dataset_path")
    files, folder, noted = (settings.pop(name, None) for name in ("data_files", "data_dir", "revision"))
    unknown = sorted(set(map(str, settings)) - set(_HOW))
    if unknown:
        raise _refused(task, f"has '{unknown[0]}' in dataset_kwargs, which is not known to leave its data pinned")
    where = {name: value for name, value in (("data_files", files), ("data_dir", folder)) if value is not None}
    if isinstance(path, str) and path in _LOCAL:
        _check_own_files(task, where, names)
        if task.revision is not None:
            raise _refused(task, "reads files, which have no revision", hint="leave 'revision' out")
        place = path
    elif isinstance(path, str) and _HUB.fullmatch(path) and not any(name == path or name.startswith(f"{path}/") for name in names):
        place = str(_downloaded(task, path, task.revision or noted, where))
    else:
        hint = f"dataset_path is {', '.join(_LOCAL)} with data_files, or a data set on the Hub"
        raise _refused(task, "names its data in a way that pins nothing", ("dataset_path", str(path)), hint=hint)
    overrides: dict[str, Any] = {"dataset_path": place, "dataset_kwargs": {**settings, **where, "trust_remote_code": False}}
    return overrides | _metrics(task, given)


def _check_own_files(task: Task, where: Mapping[str, Any], names: Sequence[str]) -> None:
    if not where:
        raise _refused(task, "names no data", hint="give dataset_kwargs: data_files")
    for pattern in _leaves(where.get("data_files")):
        if not is_inside(pattern) or not fnmatch.filter(names, str(PurePosixPath(pattern))):
            raise _refused(
                task, "reads a file that is not in its folder", ("file", pattern), hint="put it there, and name it relative to it"
            )
    for folder in _leaves(where.get("data_dir")):
        if not is_inside(folder) or not any(name.startswith(f"{PurePosixPath(folder)}/") for name in names):
            raise _refused(task, "reads a folder that is not in its own", ("folder", folder))


def _downloaded(task: Task, repository: str, revision: Any, where: Mapping[str, Any]) -> Path:
    """The whole data set at a revision: read as files, so that nothing of the Hub's is asked again, or taken from an older one."""
    if not isinstance(revision, str) or not _COMMIT.fullmatch(revision):
        facts = ("data set", repository), *([("revision", str(revision))] if revision is not None else [])
        hint = 'pin it: lm_eval = { …, revision = "<40 hexadecimal digits>" }; its page on the Hub lists them under "History"'
        raise _refused(task, "reads data of the Hub that is not pinned", *facts, hint=hint)
    for name in _leaves(dict(where)):
        if not is_inside(name):
            raise _refused(task, "reads a file outside its data set", ("data set", repository), ("file", name))
    folder = hub.snapshot("dataset", repository, revision, _FILES)
    card = folder / "README.md"
    front = regular.read(card, _CARD_BYTES_MAX).decode(errors="replace").split("---", 2) if card.is_file() else []
    try:
        root = _composed(front[1].encode()) if len(front) == 3 and not front[0].strip() else None
        described = {} if root is None else yaml.SafeLoader("").construct_document(root)
    except (yaml.YAMLError, ValueError, RecursionError):
        described = None
    configs = described.get("configs", []) if isinstance(described, dict) else None
    sources = [one.get("data_files") for one in configs if isinstance(one, dict)] if isinstance(configs, list) else None
    if sources is None or not all(is_inside(name) for name in _leaves([_paths(source) for source in sources])):
        raise _refused(task, "reads a data set whose card names files elsewhere", ("data set", repository))
    return folder


def _paths(source: Any) -> Any:
    """The files of one configuration of a data set's card."""
    if isinstance(source, list):
        return [one.get("path") if isinstance(one, dict) else one for one in source]
    return source


def _leaves(value: Any) -> Iterator[str]:
    """Every text in it; what is neither text nor a container is no name of a file."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None:
        yield value if isinstance(value, str) else ""


def _metrics(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics that lm-eval has itself: any other it would fetch from the Hub, and run."""
    importlib.import_module("lm_eval.api.metrics")  # registers them
    from lm_eval.api.registry import METRIC_REGISTRY

    metrics = given.get("metric_list")
    if not isinstance(metrics, list) or given.get("process_results") is not None:
        return {}
    for one in metrics:
        name = one.get("metric") if isinstance(one, Mapping) else None
        if not isinstance(name, Function) and (not isinstance(name, str) or name not in METRIC_REGISTRY):
            raise _refused(task, "has a metric that lm-eval would fetch from the Hub, and run", ("metric", str(name)))
    if not any("hf_evaluate" in one for one in metrics):
        return {}
    if any(isinstance(value, Function) for one in metrics for value in one.values()):
        raise _refused(task, "has both a metric of the Hub and functions of its own")
    return {"metric_list": [{key: value for key, value in one.items() if key != "hf_evaluate"} for one in metrics]}


def _refused(task: Task, why: str, *facts: tuple[str, str], hint: str = "") -> BuildError:
    return BuildError(f"task '{task.task}' {why}", facts, hint)
