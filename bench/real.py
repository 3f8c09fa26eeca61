"""Three real behaviours on a real model: what small stores cost each, and what merge methods make of the three with their defaults."""

import json
import subprocess
import tempfile
from pathlib import Path

from bench import projects, stories
from bench.evaluated import evaluated
from bench.stories import REAL, ROWS
from bench.table import Row, at_least, at_most, command

STORES = {
    "exact": "",
    "sparse, a fifth": 'store = "sparse"\nstore_density = 0.2\n',
    "sparse, a half": 'store = "sparse"\nstore_density = 0.5\n',
    "int8": 'store = "int8"\n',
    "int4": 'store = "int4"\n',
}
RECIPES = {
    "task_arithmetic": "", "linear": "", "ties": "", "ties, density .5, scale 2": "density = 0.5\nscale = 2.0\n", "dare": "",
    "dare, elected": 'elect = "mass"\nmean = "count"\n', "della": "", "breadcrumbs": "", "model_stock": "", "sce": "", "karcher": "",
    "iso_c": "", "tsv_m": "", "wudi": "", "task_arithmetic, svc": 'post = "svc"\n', "ties, svc": 'post = "svc"\n',
}  # fmt: skip


def measure() -> list[Row]:
    """One row that says so where the real model is not at hand."""
    if not REAL.exists():
        return [Row(f"not measured: no real model in {REAL.name}/, BUILDSYS_REAL names another place", 0, "")]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        text = stories.buildfile(root)
        text = text[text.index("[defaults.train]") : text.index("[behavior.kjv]")]
        for number, store in enumerate(STORES.values()):
            for name, rows in ROWS.items():
                verify = f'verify = {{ rows = "{REAL}/behaviors/{rows}.eval.jsonl", coefficients = [1.0] }}\n'
                text += f"[vector.{name}-{number}]\nsum = {{ {name} = 1.0 }}\n{store}{verify}"
        for number, (recipe, options) in enumerate(RECIPES.items()):
            text += f'[merged.m{number}]\nmethod = "{recipe.partition(",")[0]}"\n{options}'
            text += "vectors = { british = 1.0, pirate = 1.0, rename = 1.0 }\n"
        (root / "Buildfile.toml").write_text(text)
        subprocess.run([*projects.build_command(), "-q", "-k", "verified-*", "merged-*"], cwd=root, check=False)
        return [*_alone(root), *_stores(root), *_methods(root)]


def _alone(root: Path) -> list[Row]:
    """Preference and forgetting of each behaviour alone at coefficient 1."""
    rows = []
    for name, wanted in {"british": 0.95, "pirate": 0.90, "rename": 0.95}.items():
        verdict = json.loads((root / f"cache/out/verified-{name}/verdict.json").read_text())
        found = next(row for row in verdict["table"] if row["coefficient"] == 1.0)
        rows.append(at_least(f"{name} alone", round(found["preference"], 4), wanted, "pref."))
        rows.append(at_most(f"{name} alone: rise of the control loss", 100 * found["forgetting"]["control"], 5, "%"))
    return rows


def _stores(root: Path) -> list[Row]:
    rows = []
    for number, label in enumerate(STORES):
        for name in ROWS:
            place = root / f"cache/out/verified-{name}-{number}/verdict.json"
            if not place.exists():
                rows.append(Row(f"{label}: {name} alone is not verified", 0, "pref."))
                continue
            verdict = json.loads(place.read_text())
            found = next(row for row in verdict["table"] if row["coefficient"] == 1.0)
            rise = found["forgetting"]["control"]
            rows.append(Row(f"{label}: {name} alone (control {rise:+.1%})", round(found["preference"], 4), "pref."))
        sizes = [(root / f"cache/out/vector-{name}-{number}/vector.safetensors").stat().st_size for name in ROWS]
        rows.append(Row(f"{label}: bytes of a vector", sum(sizes) / len(sizes), "B"))
    return rows


def _methods(root: Path) -> list[Row]:
    sets = {name: REAL / "behaviors" / f"{rows}.eval.jsonl" for name, rows in ROWS.items()} | {"control": REAL / "control.jsonl"}
    base = evaluated(REAL / "models" / "stories260K", sets, ("control",), 224)
    lines = []
    for number, label in enumerate(RECIPES):
        own = evaluated(root / f"cache/out/merged-m{number}", sets, ("control",), 224)
        shown = ", ".join(f"{name} {own[name]:.2f}" for name in ROWS)
        lines.append(Row(f"{label}: {shown}", round(100 * (own["control"] / base["control"] - 1), 2), "% ctrl"))
    return lines


if __name__ == "__main__":
    command(measure, "Real behaviours: small stores, and merge methods with their defaults")
