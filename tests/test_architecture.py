"""Imports point one way, heavy libraries are loaded where an action runs, and an edited rule asks for its version."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from buildsys import rules

PACKAGE = Path(rules.__file__).parents[1]
LAYERS = [
    ("cli",),
    ("execute", "reproduce"),
    ("forkserver", "perform", "debugging", "schedule"),
    ("workers", "staging", "permission"),
    ("plan", "preflight", "verdicts", "running"),
    ("card", "declared"),
    ("rendering",),
    ("outside",),
    ("graph", "buildfile"),
    ("memory",),
    ("tables",),
    ("rules",),
    ("store",),
    ("merging", "training", "evaluation", "tensors", "examples"),
    ("hub", "measurements", "failures"),
    ("configuration",),
    ("files", "progress"),
    ("action", "deadline", "lines", "machine", "marks", "regular", "strict", "trees"),
    ("errors",),
    ("terminal",),
]
NUMBERS = next(names for names in LAYERS if "merging" in names)
RANK = {name: len(LAYERS) - place for place, names in enumerate(LAYERS) for name in names}
HEAVY = {"torch", "numba", "transformers", "accelerate", "doit", "safetensors", "tokenizers", "numpy"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem not in ("__init__", "__main__"))


def imports(path: Path, *, top_level: bool) -> set[str]:
    """Dotted names that a file imports; type-checking imports apart."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(sub)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for sub in ast.walk(node)
    }
    nodes = tree.body if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = layer(path)
    for name in imports(path, top_level=False):
        parts = name.split(".")
        if parts[0] != "buildsys" or len(parts) < 2 or parts[1] == "__version__":
            continue
        other = parts[1]
        allowed = RANK[other] < RANK[own] or other == own
        among_numbers = own in NUMBERS and other in NUMBERS
        assert allowed or among_numbers, f"{own} imports {name}"


def test_planning_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "Buildfile.toml").write_text('[merged.x]\nmethod = "ties"\nvectors = {}\n')
    code = "import sys; from buildsys.cli.run import run; run(['status']); print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & HEAVY


@pytest.mark.parametrize("name", rules.names())
def test_a_rule_declares_what_an_executor_asks_of_it(name: str) -> None:
    rule = rules.get(name)
    assert isinstance(rule.VERSION, int)
    assert isinstance(rule.ROLES, dict)
    assert isinstance(rule.PRELOAD, tuple)
    assert isinstance(rule.FLUSH, bool)
    assert rule.Params.model_config["extra"] == "forbid"
    assert rule.__doc__


NUMBERS_OF = {  # what a rule's bytes depend on besides its own file
    "adapter": ["tensors"],
    "apart": ["examples/rows.py"],
    "bisect": [
        "examples",
        "tensors",
        "evaluation",
        "merging",
        "training/objectives.py",
        "rules/evaluate.py",
        "rules/judge.py",
        "rules/tune.py",
    ],
    "check": ["evaluation/composed.py", "evaluation/verdict.py", "evaluation/metrics.py", "evaluation/intervals.py"],
    "combine": ["merging", "tensors"],
    "dataset": ["examples/rows.py", "hub.py"],
    "evaluate": ["examples", "tensors", "evaluation", "training/objectives.py", "merging/coefficients.py"],
    "extract": [
        "tensors/checkpoints.py",
        "tensors/configuration.py",
        "tensors/folders.py",
        "tensors/matching.py",
        "tensors/positions.py",
        "tensors/tokens.py",
    ],
    "icl": ["examples", "tensors", "training/bridge.py"],
    "judge": ["evaluation/verdict.py", "evaluation/metrics.py", "evaluation/intervals.py"],
    "merge": ["merging", "tensors"],
    "model": [
        "tensors/checkpoints.py",
        "tensors/completeness.py",
        "tensors/configuration.py",
        "tensors/folders.py",
        "tensors/positions.py",
        "hub.py",
    ],
    "pack": ["merging/thresholds.py", "merging/kernels.py", "tensors"],
    "pretrain": ["training"],
    "reference": ["examples", "evaluation/score.py", "training/objectives.py"],
    "samples": ["evaluation/generate.py", "tensors/models.py"],
    "search": [
        "examples",
        "tensors",
        "evaluation",
        "training/objectives.py",
        "merging/coefficients.py",
        "rules/evaluate.py",
        "rules/judge.py",
    ],
    "train": ["examples", "tensors", "training"],
    "tune": ["examples", "tensors", "evaluation", "merging", "training/objectives.py", "rules/evaluate.py", "rules/judge.py"],
}
SOURCES = {
    # rule: (VERSION, digest of its sources). After an edit: would the same action give other bytes? Then raise VERSION, add a line to
    # CHANGELOG under "Rebuilds", and pin both again. If not, pin the digest alone: `python -m tests.test_architecture` prints them.
    "adapter": (1, "acbfdc40e1639288"),
    "apart": (1, "c1834831a2573c3b"),
    "bisect": (1, "c9afa8171397329e"),
    "check": (1, "e2a42ddd6832ae6e"),
    "combine": (1, "3d7f562dfb3402c7"),
    "dataset": (1, "96b6e5820d857257"),
    "evaluate": (2, "e646bc50c255d56f"),
    "extract": (2, "df0c0b9578882b97"),
    "icl": (1, "ae74638c6fe464a7"),
    "judge": (2, "85c49687eae21a7e"),
    "merge": (2, "f0ed4df7d5a37d19"),
    "model": (2, "2a817c6aae7109a2"),
    "pack": (1, "fba887f075f12a1b"),
    "pretrain": (1, "b3818a96d63f788e"),
    "reference": (2, "705cb0568a3a7088"),
    "samples": (1, "24c21ab5e982a7b9"),
    "search": (1, "4bc08f370f9a115f"),
    "train": (3, "c5b539f25bf00991"),
    "tune": (2, "d070591b08c0eec8"),
}


def pinned(name: str) -> tuple[int, str]:
    rule = rules.get(name)
    places = [PACKAGE / "rules" / f"{name}.py", *(PACKAGE / place for place in NUMBERS_OF[name])]
    files = sorted(file for place in places for file in ([place] if place.is_file() else place.rglob("*.py")))
    return rule.VERSION, blake3(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


@pytest.mark.parametrize("name", rules.names())
def test_an_edited_rule_asks_for_its_version(name: str) -> None:
    assert SOURCES[name] == pinned(name)


def test_files_stay_small() -> None:
    assert [f"{path.name}: {n}" for path in modules() if (n := len(path.read_text().splitlines())) > 320] == []


if __name__ == "__main__":
    for each in rules.names():
        print(f'    "{each}": {pinned(each)},'.replace("'", '"'))
