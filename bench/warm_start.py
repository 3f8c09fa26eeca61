"""Updates that a warm start saves: until the held-out loss that a cold start ends with, the bridge's own cost counted.

python -m bench.warm_start [--base FOLDER] [--only PART …] [--json]

The example's base and its seven behaviours, and where it is at hand the real model with its five; objective "sft", APOLLO, three seeds.
The learning rate is the cold start's best on rows split off the training rows; the rows of verification are only looked at for the table.
`--base` names a folder of the example's base that is built already.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import projects, runs
from bench.runs import BATCH, Behaviour, Curve, Run
from bench.stories import REAL, ROOT
from bench.table import Row, at_most, parser, show
from buildsys.examples.encode import Example
from buildsys.rules.train import Params, WarmStart

TAKE_UP = ("kjv-style",)  # of the real behaviours: the one whose answer loss falls most with examples in the context
SEEDS = (0, 1, 2)
LENGTHS = (8, 16, 30)  # updates of a cold run
LONGER = (16, 30, 60)  # with linear decay
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
WAYS = ("weights", "moments", "both")
PARTS = ("constant", "linear", "real")


def run(one: Behaviour, rate: float, updates: int, seed: int, watched: list[Example], schedule: str, into: str | None = None) -> Run:
    """A training at one learning rate; `into`: of a warm start."""
    warm = WarmStart(into=into) if into else None
    params = Params(
        learning_rate=rate, max_steps=updates, per_device_train_batch_size=BATCH, seed=seed, lr_scheduler_type=schedule, warm_start=warm
    )
    return runs.run(one, params, watched)


def reached(curve: Curve, loss: float, within: int) -> int:
    """The first update with that loss; one more than there were where none has it."""
    return next((update for update, found in sorted(curve.found.items()) if found <= loss and update <= within), within + 1)


def best_rates(one: Behaviour) -> dict[int, float]:
    """Length of a run -> the cold start's best learning rate, by the validation rows, constant schedule."""
    curves = {rate: run(one, rate, max(LENGTHS), 100, one.validation, "constant").curve for rate in RATES}
    return {length: min(RATES, key=lambda rate: curves[rate].found[length]) for length in LENGTHS}


def constant(behaviours: Sequence[Behaviour], title: str, limit: float) -> list[Row]:
    """A constant learning rate: every length of a cold run is a point of one curve."""
    ratios: dict[tuple[str, int], list[float]] = {}
    took: list[str] = []
    notes: dict[str, list[float]] = {"cost": [], "loss left by the jump": []}
    for one in behaviours:
        print(f"{title}: {one.name} …", file=sys.stderr)
        rates = best_rates(one)
        for seed in SEEDS:
            cold = {rate: run(one, rate, max(LENGTHS), seed, one.held_out, "constant").curve for rate in set(rates.values())}
            for length in LENGTHS:
                ended = cold[rates[length]].found[length]
                ratios.setdefault(("cold, first time", length), []).append(reached(cold[rates[length]], ended, length) / length)
            for into in WAYS:
                warm = {rate: run(one, rate, max(LENGTHS), seed, one.held_out, "constant", into) for rate in set(rates.values())}
                for length in LENGTHS:
                    curve, found, cost = warm[rates[length]].curve, warm[rates[length]].jump, warm[rates[length]].cost
                    assert found is not None
                    ended = cold[rates[length]].found[length]
                    ratios.setdefault((into, length), []).append((cost + reached(curve, ended, length)) / length)
                if into == "weights":
                    notes["cost"].append(cost)
                    took.append("cold" if found.cold_because else "warm")
                    notes["loss left by the jump"].append(curve.found[0] / cold[rates[max(LENGTHS)]].found[0])
    rows = [Row(f"{title}: starts that a guard left cold, of {len(took)}", took.count("cold"), "")]
    rows += [Row(f"{title}: {what}, median", statistics.median(values), "") for what, values in notes.items()]
    for (way, length), found_ratios in ratios.items():
        low, middle, high = statistics.quantiles(found_ratios, n=4)
        better = sum(ratio < 1 for ratio in found_ratios)
        said = f"{title}: {way}, cold run of {length} [{low:.2f}, {high:.2f}], {better} of {len(found_ratios)} better"
        ours = way == WarmStart().into
        rows.append(at_most(said, middle, limit, "×") if ours else Row(said, middle, "×"))
    return rows


def linear(behaviours: Sequence[Behaviour], title: str) -> list[Row]:
    """Half the updates at half the rate, which is the later half of a cold run with linear decay: the loss that is left, over cold's."""
    excess: dict[tuple[str, int], list[float]] = {}
    for one in behaviours:
        print(f"{title}, linear: {one.name} …", file=sys.stderr)
        for length in LONGER:
            rate = min(RATES, key=lambda rate: run(one, rate, length, 100, one.validation, "linear").curve.found[length])
            for seed in SEEDS:
                ended = run(one, rate, length, seed, one.held_out, "linear").curve.found[length]
                for way in ("cold", WarmStart().into):
                    updates = length // 2 - (0 if way == "cold" else 1)  # the bridge costs about one
                    shorter = run(one, rate / 2, updates, seed, one.held_out, "linear", None if way == "cold" else way)
                    excess.setdefault((way, length), []).append(100 * (shorter.curve.found[updates] / ended - 1))
    rows = []
    for (way, length), values in excess.items():
        well = f"{sum(value <= 0 for value in values)} of {len(values)} no worse"
        what = f"{title}: {way}, {length // 2} of {length} updates, linear decay: loss over cold's, {well}"
        rows.append(Row(what, statistics.median(values), "%") if way == "cold" else at_most(what, statistics.median(values), 0, "%"))
    return rows


def noticed(behaviours: Sequence[Behaviour]) -> list[Row]:
    """Where the bridge starts cold, the training is the cold one to the last bit: all that it costs is having looked."""
    rows = []
    for one in behaviours:
        found = [run(one, 1e-3, 2, seed, [], "constant", WarmStart().into) for seed in SEEDS]
        jumps = [each.jump for each in found if each.jump is not None]
        left = sum(bool(jump.cold_because) for jump in jumps)
        helped = [jump.losses["in_context"] / jump.losses["zero_shot"] for jump in jumps if jump.losses]
        said = f"loss in context {statistics.mean(helped):.2f} of zero-shot" if helped else "no context of them fits"
        what = f"real, {one.name}: starts left cold {left} of {len(jumps)}, {said}"
        rows.append(at_most(f"{what}, run of {max(LENGTHS)}", 1 + max(each.cost for each in found) / max(LENGTHS), 1.05, "×"))
    return rows


def measure(base: Path | None = None, only: Sequence[str] = PARTS) -> list[Row]:
    if base is None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "Buildfile.toml").write_text((ROOT / "Buildfile.toml").read_text())
            for name in ("corpus", "behaviors", "memory"):
                (Path(folder) / name).symlink_to(ROOT / name)
            subprocess.run([*projects.build_command(), "-q", "base-tiny"], cwd=folder, check=True)
            return measure(Path(folder) / "cache" / "out" / "base-tiny", only)
    rows = []
    if "constant" in only:
        rows += constant(runs.example(base), "example", 0.5)
    if "linear" in only:
        rows += linear(runs.example(base), "example")
    if "real" in only and REAL.exists():
        rows += noticed(runs.real(["british-english", "pirate-talk", "rename-lily"]))
        rows += constant(runs.real(TAKE_UP), "real, kjv-style", 0.5)
        rows += constant(runs.real(["basic-english"]), "real, basic-english", 1.05)
    return rows


if __name__ == "__main__":
    _TITLE = "Warm starts: (cost of the bridge + updates to cold's final held-out loss) ÷ updates of the cold run, medians"
    _PARSER = parser(_TITLE)
    _PARSER.add_argument("--base", metavar="FOLDER", type=Path, help="the example's base, built")
    _PARSER.add_argument(
        "--only", metavar="PART", nargs="+", choices=("constant", "linear", "real"), default=("constant", "linear", "real")
    )
    _GIVEN = _PARSER.parse_args()
    show(measure(_GIVEN.base, _GIVEN.only), _TITLE, _GIVEN.json)
