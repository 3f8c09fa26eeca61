"""Verification: what an evaluation costs, what noise passes, what merges keep, what conflicts, what a removed or negated behaviour leaves.

`--only speed noise three pair out negation` chooses; `--project FOLDER` keeps the real behaviours there, and goes on with what is built;
`--base FOLDER` names a built base-tiny for the example's own behaviours, which is pre-trained anew otherwise.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from bench import projects, stories
from bench.stories import REAL, ROOT
from bench.table import Row, at_least, at_most, parser, show

PARTS = ("speed", "noise", "three", "pair", "out", "negation")
COEFFICIENTS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0)
TRIALS = 200
UNBASIC = {"unbasic": "true", "unbasic-plain": "false"}
SHOWN = ("suggesting", "voice", "mode_awareness", "boundaries", "not_rushing", "not_wrapping_up")  # by the example's base, above .3
BRANCHES = {"british": "british-english", "pirate": "pirate-talk", "rename": "rename-lily", "kjv": "kjv-style", "basic": "basic-english"}
THREE = "{ british = 1.0, pirate = 1.0, rename = 1.0 }"
CHECKS = "checks = { max_loss_of_gain = 0.10, max_forgetting = 0.10 }\n"
RECIPES = {
    "task_arithmetic": "", "ties, density .5": "density = 0.5\n", "dare": "", "breadcrumbs": "", "wudi": "", "tsv_m": "",
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """Folders: where the real behaviours are, or are to be kept; a built base-tiny. "": made here, in a temporary one."""

    project: str = ""
    base: str = ""


@cache
def project(folder: str) -> Path:
    """The project of real behaviours, with everything that the parts look at."""
    root = Path(folder or tempfile.mkdtemp()).resolve()
    root.mkdir(exist_ok=True)
    text = stories.buildfile(root)
    text = text[: text.index("[merged.three]")]
    for at, (recipe, options) in enumerate(RECIPES.items()):
        head = f'[merged.tuned{at}]\nmethod = "{recipe.partition(",")[0]}"\n{options}vectors = {THREE}\n'
        text += f'{head}{CHECKS}tune = {{ by = "checks", budget = 24 }}\n'
    text += f"[merged.plain]\nvectors = {THREE}\n{CHECKS}"
    text += "[merged.pair]\nvectors = { kjv = 1.0, basic = 1.0 }\nchecks = { max_loss_of_gain = 0.10 }\n"
    for name in stories.ROWS:
        rest = ", ".join(f"{other} = 1.0" for other in stories.ROWS if other != name)
        text += f"[merged.without-{name}]\nvectors = {{ {rest} }}\nchecks = {{ max_loss_of_gain = 0.10 }}\n"
        text += f'[merged.less-{name}]\nbase = "merged-three"\nvectors = {{ {name} = -1.0 }}\n'
    text += f"[merged.three]\nvectors = {THREE}\n"
    keep = 'keep = { rows = ["plain-pirate.jsonl", "plain-rename.jsonl"], samples = 800, window = 112, weight = 10, batch_size = 14 }'
    rows = REAL / "behaviors" / "basic-english"
    for name, mirror in UNBASIC.items():
        train = f"margin = 0.5, max_steps = 150, crop_prompts = 0.0, mirror = {mirror}, {keep}"
        text += f'[behavior.{name}]\nexamples = "{rows}.train.jsonl"\ntrain = {{ {train} }}\n'
        text += _reduced(REAL / "behaviors" / "basic-english.eval.jsonl", REAL / "control.jsonl", 224)
    (root / "Buildfile.toml").write_text(text)
    return root


def _reduced(rows: Path, control: Path, max_length: int) -> str:
    """A verification of the vector's negation."""
    gates = 'direction = "reduce", reduce = 6, max_forgetting = 0.03'
    tried = "coefficients = [0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0, 3.0]"
    return f'verify = {{ rows = "{rows}", control = "{control}", {gates}, {tried}, max_length = {max_length} }}\n'


def build(root: Path, *targets: str) -> None:
    subprocess.run([*projects.build_command(), "-q", "-k", *targets], cwd=root, check=False)


def shown(root: Path, target: str) -> dict[str, Any]:
    """The verdict of a target, whether it passed or not."""
    done = subprocess.run([*projects.build_command(), "show", target, "--json"], cwd=root, check=True, capture_output=True, text=True)
    values = json.loads(done.stdout)["values"]
    return values.get("checks.json") or values["verdict.json"]


def speed(given: Given) -> list[Row]:
    """Seven coefficients of one behaviour in one evaluation, against a process for each that loads its model."""
    code = "import sys; from pathlib import Path; from bench.evaluated import evaluated; "
    code += "print(evaluated(Path(sys.argv[1]), {'r': Path(sys.argv[2])}, (), 224))"
    own = {"our scoring in a script": ["-c", code]}
    outside = {"evaluate.py": [str(REAL / "evaluate.py")]}  # the evaluator that lies beside the real rows; it takes no messages
    british = REAL / "behaviors" / "british-english.eval.jsonl"
    rows = _timed("british on stories260K", project(given.project), "british", british, own | outside)
    return rows + _timed("listening on base-tiny", example(given.base), "listening", ROOT / "behaviors" / "listening.eval.jsonl", own)


def _timed(label: str, root: Path, vector: str, eval_rows: Path, scripts: Mapping[str, list[str]]) -> list[Row]:
    """scripts  what it is called -> the arguments of a Python that evaluates one model folder on a file of rows"""
    text = (root / "Buildfile.toml").read_text()
    jitter = time.time_ns() % 1_000_000 * 1e-9  # coefficients that nobody has measured yet
    coefficients = [round(one - jitter, 9) for one in COEFFICIENTS]

    def declare(tried: Sequence[float]) -> None:
        options = f"coefficients = {list(tried)}, max_length = 224, threads = 2, control = {{}}, max_forgetting = {{}}"
        own = f'sum = {{ {vector} = 1.0 }}\nverify = {{ rows = "{eval_rows}", {options} }}\n'
        models = "".join(f"[merged.at{at}]\nvectors = {{ {vector} = {one} }}\n" for at, one in enumerate(coefficients))
        (root / "Buildfile.toml").write_text(f"{text}[vector.timed]\n{own}{models}")

    def seconds(*command: str) -> float:
        started = time.perf_counter()
        build(root, *command)
        return time.perf_counter() - started

    declare([1.5])
    build(root, "verified-timed", *(f"merged-at{at}" for at in range(len(coefficients))))  # measures the base, and 1.5
    declare(coefficients)
    seven, eight = seconds("verified-timed"), seconds("--force", "verified-timed")
    rows = [
        Row(f"{label}: seven coefficients of one evaluation, the base is known", round(seven, 2), "s"),
        Row(f"{label}: with the base, all measured anew", round(eight, 2), "s"),
    ]
    for script, command in scripts.items():
        started = time.perf_counter()
        for at in range(len(coefficients)):
            folder = root / f"cache/out/merged-at{at}"
            subprocess.run([sys.executable, *command, str(folder), str(eval_rows)], cwd=ROOT, check=True, capture_output=True)
        theirs = time.perf_counter() - started
        rows.append(Row(f"{label}: the seven, each a process that loads a model, {script}", round(theirs, 2), "s"))
        rows.append(at_least(f"{label}: times faster than {script}", theirs / seven, 5, "×"))
        rows.append(Row(f"{label}: the same with the base in ours alone", round(theirs / eight, 4), "×"))
    (root / "Buildfile.toml").write_text(text)
    return rows


@cache
def example(base: str) -> Path:
    """The example's base and behaviours without its merges."""
    root = Path(tempfile.mkdtemp())
    for folder in ("behaviors", "memory", "corpus"):
        (root / folder).symlink_to(ROOT / folder)
    text = (ROOT / "Buildfile.toml").read_text()
    head, behaviours = text.index("[base.tiny]"), text.index("[behavior.listening]")
    own = f'[base.tiny]\npath = "{Path(base).resolve()}"\n' if base else text[head:behaviours]
    (root / "Buildfile.toml").write_text(text[text.index("[graph]") : head] + own + text[behaviours : text.index("[merged.v1]")])
    return root


def noise(given: Given) -> list[Row]:
    """How many random vectors of a real one's norms pass the default gates."""
    import torch

    from buildsys.evaluation import sets, verdict
    from buildsys.evaluation.metrics import Metric
    from buildsys.examples import encode
    from buildsys.rules.evaluate import Spec, recorded
    from buildsys.tensors import checkpoints, delta, models, vectors

    root = project(given.project)
    names = list(BRANCHES)
    build(root, *(f"vector-{name}" for name in names))
    torch.set_num_threads(2)
    folder = REAL / "models" / "stories260K"
    model, tokenizer = models.load(folder), encode.load_tokenizer(str(folder))
    stored = delta.stored_names(model, checkpoints.Checkpoint(folder).entries)
    passed, gains = 0, []
    for name in names:
        rows = [json.loads(line) for line in (REAL / "behaviors" / f"{BRANCHES[name]}.eval.jsonl").read_text().splitlines()]
        asked = sets.EvaluationSet(Spec(max_length=224), rows)
        norms = {key: float(tau.norm()) for key, tau in _taus(vectors.Vector(root / f"cache/out/vector-{name}")).items()}
        kept = delta.weights(model)
        for trial in range(TRIALS // len(names)):
            generator = torch.Generator().manual_seed(1000 * names.index(name) + trial)
            noises = {
                key: torch.randn(parameter.shape, generator=generator)
                for key, parameter in model.named_parameters()
                if stored[key] in norms
            }
            numbers = []
            for coefficient in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0):
                with torch.no_grad():
                    for key, parameter in model.named_parameters():
                        if key in noises:
                            scale = norms[stored[key]] / float(noises[key].norm())
                            parameter.copy_(kept[key] + coefficient * scale * noises[key])
                numbers.append(asked.numbers(model, tokenizer))
            found = verdict.judge(recorded(asked, [0.0, 0.1, 0.25, 0.5, 0.75, 1.0], numbers), [], verdict.Gates(Metric("preference")))
            passed += found["passed"]
            gains.append(found["gain"])
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(kept[key])
    return [
        at_most(f"random vectors that pass the default gates, of {len(gains)}", 100 * passed / len(gains), 5, "%"),
        Row("their largest judged gain", round(max(gains), 4), "pref."),
    ]


def _taus(vector: Any) -> dict[str, Any]:
    import torch

    wholes = {name: vector.whole(name) for name in vector.taus}
    return {name: torch.from_numpy(tau) for name, tau in wholes.items() if tau is not None}


def three(given: Given) -> list[Row]:
    """What is kept of each verified gain by merges with tuned coefficients; the vector alone at its verified coefficient is 100%."""
    root = project(given.project)
    build(root, "merged-plain", *(f"merged-tuned{at}" for at in range(len(RECIPES))))
    verified = {name: shown(root, f"verified-{name}") for name in stories.ROWS}
    rows, best = [], (0.0, 0.0, "", 0.0)
    for label, target in {"added at 1": "merged-plain", **{f"{one}, tuned": f"merged-tuned{at}" for at, one in enumerate(RECIPES)}}.items():
        found = shown(root, target)
        kept = {row["name"]: _kept(row, verified[row["name"]]) for row in found["behaviours"]}
        lost = found["controls"][0]["forgetting"]
        figures = ", ".join(f"{name} {share:.1%}" for name, share in kept.items())
        rows.append(Row(f"{label}: {figures} (control {lost:+.1%})", round(100 * mean(kept.values()), 2), "% kept"))
        if lost <= 0.10 and "tuned" in label:
            best = max(best, (mean(kept.values()), min(kept.values()), label, lost))
    rows.append(at_least(f"best with control ≤ +10% ({best[2]}): kept on average", 100 * best[0], 95, "%"))
    rows.append(at_least("the same: the least kept of one", 100 * best[1], 90, "%"))
    rows.append(at_most("the same: rise of the control loss", 100 * best[3], 10, "%"))
    return rows


def _kept(row: Mapping[str, Any], verdict: Mapping[str, Any]) -> float:
    """Share of a verified gain, over all rows of the verification."""
    return (row["merged"] - row["base"]) / (verdict[verdict["metric"]] - row["base"])


def pair(given: Given) -> list[Row]:
    """Two behaviours that oppose each other."""
    root = project(given.project)
    build(root, "merged-pair")
    found = shown(root, "merged-pair")
    rows = [
        Row(f"{row['name']}: alone {row['alone']:.3f}, in the pair {row['merged']:.3f}", round(100 * row.get("kept", 1), 1), "% kept")
        for row in found["behaviours"]
    ]
    rows.append(at_least("checks of the pair fail (1: they do)", float(not found["passed"]), 1, ""))
    for name, other in (("kjv", "basic"), ("basic", "kjv")):
        command = [*projects.build_command(), "bisect", "merged-pair", "--metric", name, "--json", "-q"]
        blamed = json.loads(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)
        lying = blamed["conflicts_with"].get(other)
        where = f": cosine {lying['cosine']:+.2f}, {lying['conflict']:.1%} pull apart" if lying else ""
        rows.append(
            Row(
                f"bisect --metric {name} blames {', '.join(blamed['culprits']) or 'none'}{where}",
                float(blamed["culprits"] == [other]),
                "named",
            )
        )
    return rows


def out(given: Given) -> list[Row]:
    """One behaviour taken out of the merge of three: by a recipe without it, and by subtracting it from the merged model."""
    root = project(given.project)
    every = [*(f"merged-without-{name}" for name in stories.ROWS), *(f"merged-less-{name}" for name in stories.ROWS)]
    build(root, "merged-three", *every)
    sets = {name: REAL / "behaviors" / f"{rows}.eval.jsonl" for name, rows in stories.ROWS.items()} | {"control": REAL / "control.jsonl"}
    from bench.evaluated import evaluated

    three_ = evaluated(root / "cache/out/merged-three", sets, ("control",), 224)
    rows = []
    for name in stories.ROWS:
        verdict = shown(root, f"verified-{name}")
        low, high = verdict["table"][0]["preference_interval"]
        for way in ("without", "less"):
            folder = root / f"cache/out/merged-{way}-{name}"
            if not folder.exists():
                folder = root / f"cache/refused/merged-{way}-{name}"
            found = evaluated(folder, sets, ("control",), 224)
            others = [found[other] / shown(root, f"verified-{other}")["preference"] for other in stories.ROWS if other != name]
            label = f"merge {'without' if way == 'without' else 'less'} {name}"
            rows.append(
                Row(
                    f"{label}: its preference, base's interval [{low:.3f}, {high:.3f}]",
                    found[name],
                    "pref.",
                    "inside",
                    low <= found[name] <= high,
                )
            )
            rows.append(at_least(f"{label}: the others keep at least", 100 * min(others), 95, "%"))
            rows.append(at_most(f"{label}: control loss over that of the three", 100 * (found["control"] / three_["control"] - 1), 0, "%"))
    return rows


def negation(given: Given) -> list[Row]:
    """base − α·τ for behaviours that the base shows: odds and control, the frontier and what passes."""
    root = project(given.project)
    build(root, *(f"verified-{name}" for name in UNBASIC))
    rows = _frontier("basic-english on stories260K", shown(root, "verified-unbasic"))
    rows += _frontier("the same without mirror", shown(root, "verified-unbasic-plain"), wanted=None)
    folder = example(given.base)
    text = (folder / "Buildfile.toml").read_text()
    for name in SHOWN:
        gates = 'direction = "reduce", reduce = 6, min_gain = 0.0, max_forgetting = 0.03'
        verify = f'verify = {{ rows = "behaviors/{name}.eval.jsonl", {gates}, coefficients = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0] }}'
        text += f'[behavior.un-{name}]\nexamples = "behaviors/{name}.jsonl"\ntrain = {{ mirror = true }}\n{verify}\n'
    (folder / "Buildfile.toml").write_text(text)
    build(folder, *(f"verified-un-{name}" for name in SHOWN))
    for name in SHOWN:
        rows += _frontier(f"{name} on base-tiny", shown(folder, f"verified-un-{name}"))
    return rows


def _frontier(label: str, verdict: Mapping[str, Any], wanted: float | None = 6) -> list[Row]:
    rows = []
    for row in verdict["table"]:
        lost = ", ".join(f"{name} {one:+.1%}" for name, one in row["forgetting"].items())
        rows.append(
            Row(
                f"{label} at {row['coefficient']:g}: {verdict['metric']} {row[verdict['metric']]:.3f}; {lost}",
                round(row["odds_factor"], 2),
                "odds ÷",
            )
        )
    within = [row for row in verdict["table"] if max(row["forgetting"].values()) <= 0.03]
    label, best = f"{label}: odds ÷ with every control at +3% at most", max(row["odds_factor"] for row in within)
    rows.append(Row(label, round(best, 4), "×") if wanted is None else at_least(label, best, wanted, "×"))
    return rows


def measure(given: Given = Given(), only: Sequence[str] = PARTS) -> list[Row]:
    parts = {"speed": speed, "noise": noise, "three": three, "pair": pair, "out": out, "negation": negation}
    return [row for name in only for row in parts[name](given)]


if __name__ == "__main__":
    _PARSER = parser("Verification")
    _PARSER.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    _PARSER.add_argument("--project", default="", metavar="FOLDER", help="keep the project there; a temporary one else")
    _PARSER.add_argument("--base", default="", metavar="FOLDER", help="a built base-tiny; pre-trained anew else")
    _GIVEN = _PARSER.parse_args()
    show(measure(Given(_GIVEN.project, _GIVEN.base), _GIVEN.only), "Verification", _GIVEN.json)
