"""One optimiser step on a real shape: time and state against torch's fused AdamW, and the memory of updates inside the backward pass.

python -m bench.optimizer [--apollo-torch PATH] [--only PART …] [--json]

The optimisers take turns in one process, on the same weights and gradients; `--apollo-torch` names the folder that holds the package.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import runs
from bench.shapes import LLAMA_134M
from bench.stories import REAL
from bench.table import Row, at_most, parser, show
from buildsys.examples.encode import Example
from buildsys.rules.train import Params
from buildsys.training.apollo import Apollo
from buildsys.training.updates import gaussian_projection

REPEATS = 9
UPDATES = 60
SEEDS = (0, 1, 2)
GRIDS = {
    "adamw": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 4e-3), "apollo": (2e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "apollo-mini": (2e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
}  # fmt: skip
REAL_BEHAVIOURS = ("british-english", "pirate-talk", "rename-lily", "kjv-style", "basic-english")
RANK = 256
THREADS = 2
Pairs = list[tuple[str, torch.nn.Parameter]]


def weights() -> Pairs:
    """The tensors of the shape with random numbers and gradients."""
    torch.manual_seed(0)
    pairs = [(name, torch.nn.Parameter(torch.randn(shape) * 0.02)) for name, shape in LLAMA_134M.tensors()]
    for _, parameter in pairs:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return pairs


def optimizers(pairs: Pairs, apollo_torch: str | None) -> dict[str, torch.optim.Optimizer]:
    found: dict[str, torch.optim.Optimizer] = {
        "AdamW, fused": torch.optim.AdamW([p for _, p in pairs], lr=1e-5, fused=True),
        "APOLLO-Mini": Apollo(pairs, lr=1e-5, rank=1, mini=True),
        f"APOLLO, rank {RANK}": Apollo(pairs, lr=1e-5, rank=RANK),
    }
    if apollo_torch:
        sys.path.insert(0, apollo_torch)
        theirs: Any = importlib.import_module("apollo_torch").APOLLOAdamW
        matrices = [p for n, p in pairs if p.dim() == 2 and "embed" not in n]
        others = [p for n, p in pairs if p.dim() != 2 or "embed" in n]
        own = {"update_proj_gap": 200, "proj": "random", "proj_type": "std"}
        mini = {"params": matrices, "rank": 1, "scale_type": "tensor", "scale": 128, **own}
        full = {"params": matrices, "rank": RANK, "scale_type": "channel", "scale": 1, **own}
        found["apollo-torch, Mini"] = theirs([{"params": others}, mini], lr=1e-5)
        found[f"apollo-torch, rank {RANK}"] = theirs([{"params": others}, full], lr=1e-5)
    return found


def steps(apollo_torch: str | None = None) -> list[Row]:
    torch.set_num_threads(THREADS)
    pairs = weights()
    found = optimizers(pairs, apollo_torch)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(REPEATS + 2):
        for name, optimizer in found.items():
            started = time.perf_counter()
            optimizer.step()
            if turn >= 2:  # the first steps make the state, and compile
                seconds[name].append(time.perf_counter() - started)
    adamw = statistics.median(seconds["AdamW, fused"])
    limits = {"APOLLO-Mini": (1.0, 2), f"APOLLO, rank {RANK}": (6.0, 50)}
    rows = []
    for name, taken in seconds.items():
        rows.append(
            Row(f"{name}: one step, median ({1e3 * min(taken):.0f} … {1e3 * max(taken):.0f})", 1e3 * statistics.median(taken), "ms")
        )
    for name, (times, _) in limits.items():
        rows.append(at_most(f"{name}: step ÷ AdamW's", statistics.median(seconds[name]) / adamw, times, "×"))
    kept = {name: state_bytes(optimizer) for name, optimizer in found.items()}
    rows += [Row(f"{name}: state", size / 1e6, "MB") for name, size in kept.items()]
    rows += [at_most(f"{n}: state, share of AdamW's", 100 * kept[n] / kept["AdamW, fused"], share, "%") for n, (_, share) in limits.items()]
    return rows


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    if isinstance(optimizer, Apollo):
        return optimizer.state_bytes()
    return sum(_bytes(value) for state in optimizer.state.values() for value in state.values())


def _bytes(value: Any) -> int:
    if torch.is_tensor(value):
        return int(value.numel() * value.element_size())
    return sum(_bytes(inner) for inner in vars(value).values()) if hasattr(value, "__dict__") else 0


def memory() -> list[Row]:
    """Peak of a whole process that takes three steps of a Llama, embeddings frozen; what is kept of a gradient is all that differs."""
    found = {}
    for way in ("dropped", "fused", "whole"):
        command = [sys.executable, "-m", "bench.optimizer", "--one", way]
        found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    size, least = found["dropped"]["weights"], found["dropped"]["peak"]
    more = {way: 100 * (found[way]["peak"] - least) / size for way in ("fused", "whole")}
    return [
        Row("weights", size / 1e6, "MB"),
        Row("peak of the process, gradients dropped at once", least / 1e6, "MB"),
        at_most("updates inside the backward pass (Mini): more, of the weights' size", more["fused"], 5, "%"),
        Row("updates after the backward pass (Mini): more, of the weights' size", more["whole"], "%"),
    ]


def one(way: str) -> dict[str, int]:
    """Updates one way, in this process: its peak of resident memory, and the bytes of the weights. Linux only."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = LlamaConfig(**json.loads(LLAMA_134M.config()) | {"torch_dtype": "float32"})
    model = LlamaForCausalLM(config)
    model.get_input_embeddings().requires_grad_(False)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = Apollo(named, lr=1e-5, rank=1, mini=True)
    gaussian_projection(1, 8, ())  # compiled code is loaded in every way alike
    if way == "fused":
        optimizer.fuse()
    if way == "dropped":
        for _, parameter in named:
            parameter.register_post_accumulate_grad_hook(_drop)
    ids = torch.randint(0, config.vocab_size, (1, 32))
    for turn in range(4):
        if turn == 1:  # what loading and a first step took is given back; from here on the peak is that of steps
            Path("/proc/self/clear_refs").write_text("5")
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        if way != "dropped":
            optimizer.step()
        optimizer.zero_grad()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"peak": 1024 * int(peak.split()[1]), "weights": 4 * sum(p.numel() for p in model.parameters())}


def _drop(parameter: torch.Tensor) -> None:
    parameter.grad = None


def quality() -> list[Row]:
    """Held-out loss after as many updates as AdamW, each optimiser at its own best learning rate; the five real behaviours."""
    if not REAL.exists():
        return [Row("not measured: no real model; BUILDSYS_REAL names its place", 0, "")]
    ratios: dict[str, list[float]] = {name: [] for name in GRIDS if name != "adamw"}
    for one in runs.real(REAL_BEHAVIOURS):
        print(f"{one.name} …", file=sys.stderr)
        ended = {}
        for name, rates in GRIDS.items():
            tried = {rate: _ended(one, name, rate, 100, one.validation) for rate in rates}
            rate = min(tried, key=tried.__getitem__)
            ended[name] = [_ended(one, name, rate, seed, one.held_out) for seed in SEEDS]
            print(f"  {name}: {rate:g} · {statistics.mean(ended[name]):.4f}", file=sys.stderr)
        for name, found in ratios.items():
            found += [ours / theirs for ours, theirs in zip(ended[name], ended["adamw"], strict=True)]
    rows = []
    for name, found in ratios.items():
        well = f"{min(found):.3f} … {max(found):.3f}, {sum(ratio <= 1 for ratio in found)} of {len(found)} no worse"
        rows.append(at_most(f"{name}: held-out loss ÷ AdamW's after {UPDATES} updates, median ({well})", statistics.median(found), 1, "×"))
    return rows


def _ended(one: runs.Behaviour, optimizer: str, rate: float, seed: int, watched: list[Example]) -> float:
    params = Params(optimizer=optimizer, learning_rate=rate, max_steps=UPDATES, per_device_train_batch_size=runs.BATCH, seed=seed)
    return runs.run(one, params, watched, often=False).curve.found[UPDATES]


PARTS: dict[str, Callable[..., list[Row]]] = {"steps": steps, "memory": memory, "quality": quality}


def measure(apollo_torch: str | None = None, only: Sequence[str] = tuple(PARTS)) -> list[Row]:
    return [row for part in only for row in (steps(apollo_torch) if part == "steps" else PARTS[part]())]


if __name__ == "__main__":
    _TITLE = f"Optimisers: one step, {LLAMA_134M.parameters / 1e6:.1f}M parameters, float32, {THREADS} threads"
    _PARSER = parser(_TITLE)
    _PARSER.add_argument("--apollo-torch", metavar="PATH", help="the folder that holds the package apollo_torch")
    _PARSER.add_argument("--only", metavar="PART", nargs="+", choices=PARTS, default=tuple(PARTS), help=", ".join(PARTS))
    _PARSER.add_argument("--one", choices=("dropped", "fused", "whole"), help=argparse.SUPPRESS)
    _GIVEN = _PARSER.parse_args()
    if _GIVEN.one:
        print(json.dumps(one(_GIVEN.one)))
    else:
        show(measure(_GIVEN.apollo_torch, _GIVEN.only), _TITLE, _GIVEN.json)
