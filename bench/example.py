"""The example project from an empty cache: how long it takes, what its base takes up from context, and what merged-v3 shows."""

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from bench import projects
from bench.evaluated import evaluated
from bench.table import Row, at_least, at_most, command

ROOT = Path(__file__).parents[1]
WANTED = ("listening", "not_rushing", "not_wrapping_up", "voice", "boundaries", "mode_awareness")
SHOTS = 5
ROWS = 60


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".*", "cache", "shared"))
        text = (root / "Buildfile.toml").read_text()
        without = (
            text[text.index("[merged.v3]") :].replace("[merged.v3]", "[merged.without]").replace("suggesting = -0.5", "suggesting = 0.0")
        )
        (root / "Buildfile.toml").write_text(text + "\n" + without)
        started = time.perf_counter()
        subprocess.run([*projects.build_command(), "-q", "merged-v3"], cwd=root, check=True)
        minutes = (time.perf_counter() - started) / 60
        subprocess.run([*projects.build_command(), "-q", "merged-without"], cwd=root, check=True)
        return [at_most("build merged-v3 from an empty cache", minutes, 4, "min"), *_context(root), *_effects(root)]


def _effects(root: Path) -> list[Row]:
    """Held-out preference and control loss of base, merged-v3 and the same merge with coefficient 0 for `suggesting`."""
    models = {name: root / "cache" / "out" / name for name in ("base-tiny", "merged-without", "merged-v3")}
    found = {name: _measured(folder, root) for name, folder in models.items()}
    base, without, merged = found["base-tiny"], found["merged-without"], found["merged-v3"]
    rows = [at_least(f"{name}: preference over the base's", merged[name] - base[name], 0.1, "") for name in WANTED]
    rows += [
        Row("suggesting: preference in the base", base["suggesting"], ""),
        at_most("suggesting: merged-v3 less the base", merged["suggesting"] - base["suggesting"], -0.1, ""),
        at_most("suggesting: merged-v3 less the same with coefficient 0", merged["suggesting"] - without["suggesting"], -0.1, ""),
        at_most("control loss, mixed, over the base's", 100 * (merged["control"] / base["control"] - 1), 15, "%"),
        at_most("control loss, notes, over the base's", 100 * (merged["notes"] / base["notes"] - 1), 6, "%"),
    ]
    return rows


def _measured(folder: Path, root: Path) -> dict[str, float]:
    sets = {name: root / "behaviors" / f"{name}.eval.jsonl" for name in (*WANTED, "suggesting")}
    sets |= {name: root / "behaviors" / f"{name}.jsonl" for name in ("control", "notes")}
    return evaluated(folder, sets, ("control", "notes"), 256)


def _context(root: Path) -> list[Row]:
    """Answer loss of the base without examples, after five of the same behaviour, and after five of another one."""
    from buildsys.evaluation import score
    from buildsys.examples import encode
    from buildsys.tensors import models

    folder = root / "cache" / "out" / "base-tiny"
    model, tokenizer = models.load(folder), encode.load_tokenizer(str(folder))
    rows = []
    names = (*WANTED, "suggesting")
    for position, name in enumerate(names):
        questions = _rows(root, f"{name}.eval")[:ROWS]

        def loss(shots_from: str | None, questions: list[dict] = questions) -> float:
            pool = _rows(root, shots_from) if shots_from else []
            asked = []
            for number, row in enumerate(questions):
                shots = [pool[(number * SHOTS + i) % len(pool)] for i in range(SHOTS)] if pool else []
                before = [turn for shot in shots for turn in (*shot["prompt"], *shot["chosen"])]
                asked.append({**row, "prompt": [*before, *row["prompt"]]})
            run = score.log_probabilities(model, encode.encode(tokenizer, asked, 512))
            return -sum(run["chosen"]) / sum(run["chosen_tokens"])

        none, same, other = loss(None), loss(name), loss(names[(position + 1) % len(names)])
        rows.append(at_least(f"{name}: answer loss saved by five examples", 100 * (1 - same / none), 10, "%"))
        rows.append(
            at_least(f"{name}: saved against five examples of {names[(position + 1) % len(names)]}", 100 * (1 - same / other), 10, "%")
        )
    return rows


def _rows(root: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (root / "behaviors" / f"{name}.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    command(measure, "The example project")
