"""Short trainings of behaviours in this process, with the loss on held-out rows after each update: what benchmarks of training share."""

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from bench.stories import REAL, ROOT
from buildsys.examples import encode
from buildsys.examples.encode import Example
from buildsys.progress import Progress
from buildsys.rules.train import Params
from buildsys.tensors import models
from buildsys.training import bridge, fit, objectives, optimizers
from buildsys.training.batching import BehaviourBatches
from buildsys.training.bridge import Jump
from buildsys.training.objectives import answer_log_probabilities
from buildsys.training.warming import warmed

EXAMPLE = ("listening", "not_rushing", "not_wrapping_up", "voice", "boundaries", "mode_awareness", "suggesting")
BATCH = 8
DENSE = 8  # updates after each of which the loss is looked at; then after every second one


@dataclass(frozen=True)
class Behaviour:
    """rows of the training, those split off it for the learning rate, and those of verification."""

    name: str
    folder: Path
    rows: list[dict[str, Any]]
    trained: list[Example]
    validation: list[Example]
    held_out: list[Example]
    room: int


@dataclass
class Curve(TrainerCallback):
    """The loss on some examples before, during and after a run."""

    examples: list[Example]
    at: Callable[[int], bool]
    found: dict[int, float] = field(default_factory=dict)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.found[0] = loss_of(model, self.examples)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self.at(state.global_step) or state.global_step == args.max_steps:
            self.found[state.global_step] = loss_of(model, self.examples)


@torch.inference_mode()
def loss_of(model: Any, examples: Sequence[Example]) -> float:
    if not examples:
        return 0.0
    total = count = 0.0
    for start in range(0, len(examples), 60):
        given = encode.batch([one.chosen for one in examples[start : start + 60]])
        sums, counts = answer_log_probabilities(model(input_ids=given["input_ids"], use_cache=False).logits, given["labels"])
        total, count = total - float(sums.sum()), count + float(counts.sum())
    return total / count


def behaviour(folder: Path, name: str, train: Path, held_out: Path) -> Behaviour:
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    tokenizer = encode.load_tokenizer(str(folder))
    room = models.context(_model(folder), 512)
    examples = encode.encode(tokenizer, rows, room)
    asked = encode.encode(tokenizer, [json.loads(line) for line in held_out.read_text().splitlines()], room)
    split = len(rows) - len(rows) // 5
    return Behaviour(name, folder, rows[:split], examples[:split], examples[split:], asked, room)


@cache
def _weights(folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    model = models.load(folder, torch.float32)
    models.freeze(model, embeddings=True)
    return model, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _model(folder: Path) -> Any:
    """The base as it is, in one place of memory."""
    model, kept = _weights(folder)
    model.load_state_dict(kept)
    return model.eval()


@dataclass(frozen=True)
class Run:
    """curve: the watched examples; jump: of a warm start, and what it cost in updates."""

    curve: Curve
    jump: Jump | None = None
    cost: float = 0.0


def run(one: Behaviour, params: Params, watched: list[Example], *, often: bool = True) -> Run:
    """Train a behaviour as the rule does, objective and all, and look at the watched examples on the way; else at the ends alone."""
    models.deterministic(params.seed, 1)
    model = _model(one.folder)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    optimizer = optimizers.make(params, named)
    updates = params.max_steps or 0
    batches = BehaviourBatches(one.trained, [], updates, params)
    callbacks, found, cost = [], None, 0.0
    if params.warm_start is not None:
        tokenizer = encode.load_tokenizer(str(one.folder))
        found = bridge.jump(model, tokenizer, one.rows, params.warm_start, one.room, params.seed)
        callbacks = warmed(params, found, model, optimizer)
        cost = found.tokens / (3 * statistics.mean(batches.tokens(position) for position in range(len(batches))))
    curve = Curve(watched, lambda update: often and (update <= DENSE or update % 2 == 0))
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(Path(folder), lambda text, share: None, {})
        fit.fit(model, batches, objectives.Behaviour(params, model, False), params, updates, optimizer, progress, [*callbacks, curve])
    return Run(curve, found, cost)


def example(base: Path) -> list[Behaviour]:
    folder = ROOT / "behaviors"
    return [behaviour(base, name, folder / f"{name}.jsonl", folder / f"{name}.eval.jsonl") for name in EXAMPLE]


def real(names: Sequence[str]) -> list[Behaviour]:
    folder, base = REAL / "behaviors", REAL / "models" / "stories260K"
    return [behaviour(base, name, folder / f"{name}.train.jsonl", folder / f"{name}.eval.jsonl") for name in names]
