"""Our merges against those of others, at float32: `peft.utils.merge_utils` tensor by tensor, mergekit on whole small models.

python -m bench.parity [--mergekit PATH/TO/mergekit-yaml] [--json]

A row is the largest absolute difference of one method with one set of options. It has a target where both define the same; where a
convention differs, the row says which, and stands for information.
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from bench.table import Row, parser, show

LIMIT = 1e-5
SHAPES = ((64,), (33, 7), (128, 96), (300, 257))  # the last is too large to be sorted, and is counted
COUNTS = (2, 3, 4, 5)


def measure(mergekit: str | None = None) -> list[Row]:
    """mergekit  its `mergekit-yaml`; None: only PEFT"""
    rows = _against_peft()
    if mergekit:
        with tempfile.TemporaryDirectory() as folder:
            rows += _against_mergekit(Path(folder), mergekit)
    return rows


def _row(what: str, difference: float, equal: bool) -> Row:
    return Row(what, float(difference), "", f"≤ {LIMIT:g}" if equal else "", bool(difference <= LIMIT) if equal else None)


# PEFT, in memory


@dataclass(frozen=True)
class Tensors:
    """The differences of one tensor, float32, and their coefficients."""

    deltas: list[numpy.ndarray]
    weights: list[float]

    def ours(self, method: str, **given: Any) -> numpy.ndarray:
        """The merged delta."""
        from buildsys.merging import options
        from buildsys.merging.deltas import Deltas, Given, Pool
        from buildsys.merging.methods import METHODS
        from buildsys.merging.stream import evaluated

        chosen, problems = options.completed(method, given)
        assert not problems, problems
        pool = Pool(2)
        base = numpy.zeros_like(self.deltas[0])
        names = [f"d{position}" for position in range(len(self.deltas))]
        deltas = Deltas("model.layers.0.mlp.up_proj.weight", base, [Given(one) for one in self.deltas], self.weights, names, pool)
        merged = evaluated(deltas, METHODS[method](deltas, **chosen))
        pool.close()
        return merged

    def theirs(self, function: Callable[..., Any], *given: Any) -> numpy.ndarray:
        import torch

        merged: numpy.ndarray = function([torch.from_numpy(one) for one in self.deltas], torch.tensor(self.weights), *given).numpy()
        return merged

    def draws(self, density: float) -> numpy.ndarray:
        """Entries that as many of the trimmed deltas raise as lower."""
        import torch
        from peft.utils.merge_utils import prune

        signs = torch.stack([prune(torch.from_numpy(one), density, "magnitude").sign() for one in self.deltas])
        found: numpy.ndarray = ((signs.sum(0) == 0) & (signs != 0).any(0)).numpy()
        return found


def _tensors(weights: Sequence[float]) -> list[Tensors]:
    """Every shape with every number of vectors; `weights` are taken in turn."""
    generator = numpy.random.default_rng(0)
    return [
        Tensors(
            [generator.standard_normal(shape, numpy.float32) for _ in range(count)], [weights[at % len(weights)] for at in range(count)]
        )
        for shape in SHAPES
        for count in COUNTS
    ]


def _against_peft() -> list[Row]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a density of 1, that it prunes nothing
        return [_row(f"peft {what}", difference, equal) for what, difference, equal in _peft()]


def _peft() -> Iterator[tuple[str, float, bool]]:
    """(what, largest difference, whether both define the same)"""
    from peft.utils import merge_utils as peft

    signed, unequal, common = _tensors([0.7, -0.4, 0.3]), _tensors([0.7, 0.4, 0.3]), _tensors([0.3])
    yield "task_arithmetic", _largest(signed, lambda one: one.ours("task_arithmetic") - one.theirs(peft.task_arithmetic)), True
    for density in (0.2, 0.5):

        def pruned(one: Tensors, density: float = density) -> numpy.ndarray:
            return one.ours("breadcrumbs", density=density, gamma=0.0) - one.theirs(peft.magnitude_prune, density)

        def ties(one: Tensors, elect: str = "mass", method: str = "total", density: float = density) -> numpy.ndarray:
            return one.ours("ties", density=density, elect=elect, mean="count") - one.theirs(peft.ties, density, method)

        def counted(one: Tensors, density: float = density, draws: bool = False) -> numpy.ndarray:
            return numpy.where(one.draws(density) == draws, ties(one, "count", "frequency"), 0)

        at = f"density {density:g}"
        yield f"magnitude_prune, {at} (breadcrumbs, gamma 0)", _largest(signed, pruned), True
        yield f"ties, {at}, total, one weight", _largest(common, ties), True
        yield f"ties, {at}, total, unequal weights: it elects before it weighs", _largest(unequal, ties), False
        yield f"ties, {at}, frequency, but for draws", _largest(unequal, counted), True
        yield f"ties, {at}, frequency, draws: it takes +, ours 0", _largest(unequal, lambda one: counted(one, draws=True)), False
    chosen = {"density": 1.0, "elect": "mass", "mean": "count"}
    yield "dare_linear, density 1", _largest(signed, lambda one: one.ours("dare", density=1.0) - one.theirs(peft.dare_linear, 1.0)), True
    yield "dare_ties, density 1", _largest(common, lambda one: one.ours("dare", **chosen) - one.theirs(peft.dare_ties, 1.0)), True


def _largest(tensors: Sequence[Tensors], difference: Callable[[Tensors], numpy.ndarray]) -> float:
    return max(float(numpy.abs(difference(one)).max()) for one in tensors)


# mergekit, on models


@dataclass(frozen=True)
class Case:
    """One recipe in both languages.

    ours     merge method and options
    theirs   merge method, and what stands under its `parameters`
    weights  a coefficient for each model
    each     parameters that mergekit has for each model; None: this method has none, not even a weight
    base     whether mergekit is given the base
    models   which set of models
    equal    whether both define the same
    """

    what: str
    ours: Mapping[str, Any]
    theirs: tuple[str, Mapping[str, Any]]
    weights: tuple[float, ...] = (0.7, 0.5, 0.3)
    each: Mapping[str, Any] | None = field(default_factory=dict)
    base: bool = True
    models: str = "far"
    equal: bool = True

    def config(self, folder: Path) -> dict[str, Any]:
        """mergekit's."""
        method, parameters = self.theirs
        listed: list[dict[str, Any]] = [{"model": str(folder / self.models / f"m{at}")} for at in range(1, 1 + len(self.weights))]
        if self.each is not None:
            for entry, weight in zip(listed, self.weights, strict=True):
                entry["parameters"] = {"weight": weight, **self.each}
        found: dict[str, Any] = {"merge_method": method, "models": listed, "dtype": "float32"}
        found |= {"parameters": dict(parameters)} if parameters else {}
        return found | ({"base_model": str(folder / self.models / "base")} if self.base else {})

    def table(self, name: str) -> str:
        """Of our Buildfile."""
        options = "\n".join(f"{key} = {json.dumps(value)}" for key, value in self.ours.items())
        listed = ", ".join(f'{{ path = "{self.models}/m{at}", coefficient = {weight} }}' for at, weight in enumerate(self.weights, 1))
        return f'[merged.{name}]\nbase = "{self.models}"\nunverified = true\n{options}\nvectors = [{listed}]\n'


ONES = (1.0, 1.0, 1.0)
CASES = (
    Case("linear", {"method": "linear"}, ("linear", {}), base=False),
    Case(
        "linear, normalize false, weights that sum to 1",
        {"method": "linear", "normalize": False},
        ("linear", {"normalize": False}),
        (0.5, 0.3, 0.2),
        base=False,
    ),
    Case(
        "linear, normalize false, weights that do not: it adds models, ours differences",
        {"method": "linear", "normalize": False},
        ("linear", {"normalize": False}),
        base=False,
        equal=False,
    ),
    Case("slerp, t .3", {"method": "slerp"}, ("slerp", {"t": 0.3}), (0.3,), None),
    Case("slerp, t .3, close models (lerp)", {"method": "slerp"}, ("slerp", {"t": 0.3}), (0.3,), None, models="near"),
    Case("nuslerp, flatten", {"method": "nuslerp", "flatten": True}, ("nuslerp", {"nuslerp_flatten": True}), (0.7, 0.4)),
    Case("nuslerp, flatten false", {"method": "nuslerp", "flatten": False}, ("nuslerp", {"nuslerp_flatten": False}), (0.7, 0.4)),
    Case(
        "nuslerp, row_wise",
        {"method": "nuslerp", "flatten": False, "row_wise": True},
        ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
        (0.7, 0.4),
    ),
    Case("task_arithmetic, a negative weight", {"method": "task_arithmetic"}, ("task_arithmetic", {}), (0.7, 0.5, -0.4)),
    Case("task_arithmetic, scale 1.5", {"method": "task_arithmetic", "scale": 1.5}, ("task_arithmetic", {"lambda": 1.5})),
    Case("ties, density .2", {"method": "ties", "mean": "coefficient"}, ("ties", {"normalize": True}), each={"density": 0.2}),
    Case(
        "ties, density .5, scale .8",
        {"method": "ties", "mean": "coefficient", "density": 0.5, "scale": 0.8},
        ("ties", {"normalize": True, "lambda": 0.8}),
        each={"density": 0.5},
    ),
    Case(
        "ties, normalize false (breadcrumbs, gamma 0)",
        {"method": "breadcrumbs", "density": 0.5, "gamma": 0.0, "elect": "mass", "mean": "sum"},
        ("ties", {"normalize": False}),
        each={"density": 0.5},
    ),
    Case(
        "ties, weights 1 and −1: it divides by their signed sum and adds what should go",
        {"method": "ties", "mean": "coefficient", "density": 0.5},
        ("ties", {"normalize": True}),
        (1.0, -1.0),
        {"density": 0.5},
        equal=False,
    ),
    Case(
        "ties, equal magnitudes: it keeps some of them, ours all",
        {"method": "ties", "mean": "coefficient"},
        ("ties", {"normalize": True}),
        each={"density": 0.2},
        models="even",
        equal=False,
    ),
    Case("breadcrumbs", {"method": "breadcrumbs"}, ("breadcrumbs", {}), each={"density": 0.9, "gamma": 0.01}),
    Case(
        "breadcrumbs, density .5, gamma .1",
        {"method": "breadcrumbs", "density": 0.5, "gamma": 0.1},
        ("breadcrumbs", {}),
        each={"density": 0.5, "gamma": 0.1},
    ),
    Case(
        "breadcrumbs, equal magnitudes: it keeps some of them, ours all",
        {"method": "breadcrumbs", "density": 0.5, "gamma": 0.1},
        ("breadcrumbs", {}),
        each={"density": 0.5, "gamma": 0.1},
        models="even",
        equal=False,
    ),
    Case(
        "breadcrumbs_ties (mean sum)",
        {"method": "breadcrumbs", "elect": "mass", "mean": "sum"},
        ("breadcrumbs_ties", {}),
        each={"density": 0.9, "gamma": 0.01},
    ),
    Case(
        "breadcrumbs_ties, normalize (mean coefficient)",
        {"method": "breadcrumbs", "elect": "mass", "mean": "coefficient"},
        ("breadcrumbs_ties", {"normalize": True}),
        each={"density": 0.9, "gamma": 0.01},
    ),
    Case("model_stock", {"method": "model_stock"}, ("model_stock", {}), ONES, None),
    Case("model_stock, filter_wise", {"method": "model_stock", "filter_wise": True}, ("model_stock", {"filter_wise": True}), ONES, None),
    Case("sce, density .1", {"method": "sce"}, ("sce", {"select_topk": 0.1}), ONES, None),
    Case("sce, density 1", {"method": "sce", "density": 1.0}, ("sce", {"select_topk": 1.0}), ONES, None),
    Case(
        "sce, mean squares that sum to < 1e-6: it weighs all models alike",
        {"method": "sce", "density": 1.0},
        ("sce", {"select_topk": 1.0}),
        ONES,
        None,
        models="near",
        equal=False,
    ),
    Case("karcher", {"method": "karcher"}, ("karcher", {}), ONES, None, base=False),
    Case(
        "karcher, models that are close: it takes arccos of a float32 near 1, ours is exact",
        {"method": "karcher"},
        ("karcher", {}),
        ONES,
        None,
        base=False,
        models="near",
        equal=False,
    ),
    Case("dare_linear, density 1 (masks differ)", {"method": "dare", "density": 1.0}, ("dare_linear", {}), each={"density": 1.0}),
    Case(
        "dare_ties, density 1 (masks differ), normalize",
        {"method": "dare", "density": 1.0, "elect": "mass", "mean": "coefficient"},
        ("dare_ties", {"normalize": True}),
        each={"density": 1.0},
    ),
    Case(
        "della, density 1 (masks differ)",
        {"method": "della", "density": 1.0, "epsilon": 0.0, "elect": "mass", "mean": "coefficient"},
        ("della", {"normalize": True}),
        each={"density": 1.0},
    ),
    Case(
        "della_linear, density 1 (masks differ)",
        {"method": "della", "density": 1.0, "epsilon": 0.0, "elect": "none", "mean": "sum"},
        ("della_linear", {}),
        each={"density": 1.0},
    ),
)  # the random ones rescale nothing at density 1: there it does not show that mergekit matches L1 norms and ours divides by the density


def _against_mergekit(root: Path, command: str) -> list[Row]:
    from safetensors.numpy import load_file

    _models(root)
    bases = "".join(f'[base.{name}]\npath = "{name}/base"\n' for name in SETS)
    (root / "Buildfile.toml").write_text(bases + "".join(case.table(f"c{at}") for at, case in enumerate(CASES)))
    subprocess.run([sys.executable, "-m", "buildsys", "-q", "merged-*"], cwd=root, check=True)
    rows = []
    for at, case in enumerate(CASES):
        theirs = root / "theirs" / f"c{at}"
        run_mergekit(command, case.config(root), theirs)
        expected = load_file(theirs / "model.safetensors")
        found = load_file(root / "cache" / "out" / f"merged-c{at}" / "model.safetensors")
        assert found.keys() == expected.keys()
        difference = max(float(numpy.abs(found[name] - expected[name]).max()) for name in found)
        rows.append(_row(f"mergekit {case.what}", difference, case.equal))
    return rows


def run_mergekit(command: str, config: Mapping[str, Any], out: Path) -> float:
    """Run a merge of mergekit's in its own process, and return its largest resident set in bytes. Raises CalledProcessError."""
    out.mkdir(parents=True)
    file = out.with_suffix(".yml")
    file.write_text(json.dumps(config))  # YAML, too
    arguments = [command, str(file), str(out), "--no-copy-tokenizer", "--no-write-model-card", "--quiet"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(arguments, stdout=said, stderr=said, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace")[-2000:])
            raise subprocess.CalledProcessError(process.returncode, arguments)
    return used.ru_maxrss * 1024


SETS = ("far", "near", "even")


def _models(root: Path) -> None:
    """Small Llamas in float32: a base and three models each. Differences of 0.01; of 0.0002; of a few magnitudes that occur often."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=256
    )
    for kind in SETS:
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if kind == "even":
            base = {name: (tensor * 1024).round() / 1024 for name, tensor in base.items()}
        for number in range(4):
            with torch.no_grad():
                for name, tensor in model.state_dict().items():
                    noise = torch.randn_like(tensor)
                    moved = {"far": noise * 0.01, "near": noise * 0.0002, "even": (noise * 2).round() / 128}[kind]
                    tensor.copy_(base[name] + moved if number else base[name])
            model.save_pretrained(root / kind / (f"m{number}" if number else "base"))


if __name__ == "__main__":
    _TITLE = "Parity at float32: the largest difference of any entry"
    _PARSER = parser(_TITLE)
    _PARSER.add_argument("--mergekit", metavar="PATH", help="mergekit-yaml of an environment of its own")
    _GIVEN = _PARSER.parse_args()
    show(measure(_GIVEN.mergekit), _TITLE, _GIVEN.json)
