"""The pass over a model: laws on real files, dtypes and shards, the same bytes however it runs, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildsys.errors import BuildError
from buildsys.merging import coefficients as recipes
from buildsys.merging.methods import METHODS, SPECTRAL
from tests.checkpoints import bfloat16, checkpoint, save
from tests.merging import merge, reference, taken

Array = numpy.ndarray


@pytest.fixture
def trio(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base and two vectors from it, by reference."""
    base = checkpoint(tmp_path / "b", {"a": [1, 2, 3, 4], "c": [0.5]})
    one = checkpoint(tmp_path / "m1", {"a": [2, 2, 3, 3], "c": [0.5]})
    two = checkpoint(tmp_path / "m2", {"a": [1, 4, 3, 5], "c": [1.5]})
    return base, reference(tmp_path / "v1", base, one), reference(tmp_path / "v2", base, two)


def model(folder: Path, seed: int, base: Path | None = None, dtype: str = "bfloat16", scale: float = 0.02) -> Path:
    """A small model with matrices, gains and embeddings, in 16 or 32 bits; near another one if there is one."""
    generator = numpy.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (50, 24), "model.norm.weight": (24,)}
    for layer in range(3):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.mlp.up_proj.weight": (40, 24), f"{at}.mlp.down_proj.weight": (24, 40), f"{at}.input_layernorm.weight": (24,)}
    from safetensors.torch import load_file

    below = {} if base is None else {name: tensor.float().numpy() for name, tensor in load_file(base / "model.safetensors").items()}
    values = {name: below.get(name, 0) + generator.standard_normal(shape) * scale for name, shape in shapes.items()}
    spelt = {"bfloat16": bfloat16, "float16": lambda v: v.astype(numpy.float16), "float32": lambda v: v.astype(numpy.float32)}[dtype]
    return save(folder, {name: spelt(value) for name, value in values.items()})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_base_plus_a_vector_is_the_tuned_model_within_one_rounding(tmp_path: Path, dtype: str) -> None:
    base = model(tmp_path / "b", 0, dtype=dtype)
    tuned = model(tmp_path / "m", 1, base, dtype, scale=0.001)
    merge(base, [reference(tmp_path / "v", base, tuned)], [1.0], tmp_path / "out")
    found, expected, below = (_float(folder / "model.safetensors") for folder in (tmp_path / "out", tuned, base))
    step = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}[dtype]
    for name in expected:
        assert (abs(found[name] - expected[name]) <= 2 * step * numpy.maximum(abs(below[name]), abs(expected[name]))).all(), name


def test_base_plus_a_vector_is_the_tuned_model_bit_for_bit_where_the_difference_is_small(tmp_path: Path) -> None:
    """bfloat16 models with a float32 τ, wherever |τ| ≤ |W|: the difference of two near numbers is exact."""
    base, tuned = model(tmp_path / "b", 0), model(tmp_path / "m", 1, tmp_path / "b", scale=0.002)
    merge(base, [reference(tmp_path / "v", base, tuned, "float32")], [1.0], tmp_path / "out")
    found, expected, below = (_float(folder / "model.safetensors") for folder in (tmp_path / "out", tuned, base))
    for name in expected:
        small = abs(expected[name] - below[name]) <= abs(below[name])
        assert numpy.array_equal(found[name][small], expected[name][small])
        assert small.mean() > 0.9


def _float(file: Path) -> dict[str, Array]:
    from safetensors.torch import load_file

    return {name: tensor.float().numpy() for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("method", METHODS)
def test_coefficients_of_zero_give_the_base(tmp_path: Path, method: str) -> None:
    base = model(tmp_path / "b", 0)
    vectors = [reference(tmp_path / f"v{i}", base, model(tmp_path / f"m{i}", i, base)) for i in range(1, taken(method, 3) + 1)]
    merge(base, vectors, [0.0] * len(vectors), tmp_path / "out", method)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_a_negative_coefficient_takes_the_vector_away(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, one, two = trio
    found = merge(base, [one, two], [1.0, -1.0], tmp_path / "out")
    assert found["a"].tolist() == [2, 0, 3, 2]
    assert found["c"].tolist() == [-0.5]


def test_negation_twice_is_identity(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, one, _ = trio
    merge(base, [one], [-1.0], tmp_path / "less")
    back = reference(tmp_path / "back", base, tmp_path / "less")
    assert merge(base, [back], [-1.0], tmp_path / "out")["a"].tolist() == [2, 2, 3, 3]


def test_a_threshold_over_the_whole_model_trims_small_tensors_away(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, _, two = trio
    # τ2 = [0, 2, 0, 1 | 1]: one of five entries is kept, the 2
    found = merge(base, [two], [1.0], tmp_path / "out", "ties", density=0.2, trim="model")
    assert found["a"].tolist() == [1, 4, 3, 4]
    assert found["c"].tolist() == [0.5]


@settings(deadline=None, max_examples=20)
@given(values=st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=40), density=st.floats(0.01, 1))
def test_the_threshold_of_the_whole_model_is_exact(tmp_path_factory: pytest.TempPathFactory, values: list[float], density: float) -> None:
    root = tmp_path_factory.mktemp("t")
    half = len(values) // 2
    base = checkpoint(root / "b", {"a": [0.0] * half, "b": [0.0] * (len(values) - half)})
    checkpoint(root / "v", {"a": values[:half], "b": values[half:]})
    (root / "v/model.safetensors").rename(root / "v/vector.safetensors")
    kept = max(1, int(density * len(values) + 1e-9))
    lowest = sorted((abs(numpy.float32(v)) for v in values), reverse=True)[kept - 1]
    expected = [float(numpy.float32(v)) if abs(numpy.float32(v)) >= lowest else 0.0 for v in values]
    if not any(expected):
        return
    found = merge(base, [root / "v"], [1.0], root / "out", "ties", density=density, trim="model")
    assert [*found["a"].tolist(), *found["b"].tolist()] == expected


@pytest.mark.parametrize("method", METHODS)
def test_the_same_bytes_on_any_number_of_threads(tmp_path: Path, method: str) -> None:
    base = model(tmp_path / "b", 0)
    vectors = [reference(tmp_path / f"v{i}", base, model(tmp_path / f"m{i}", i, base, scale=0.01)) for i in range(1, taken(method, 3) + 1)]
    given = {"steps": 3} if method == "wudi" else {}
    post = {"post": "svc"} if method == "task_arithmetic" else {}
    for threads in (1, 2, 5):
        merge(base, vectors, [0.5] * len(vectors), tmp_path / f"out{threads}", method, threads=threads, recipe=dict(post), **given)
    first = (tmp_path / "out1/model.safetensors").read_bytes()
    assert all((tmp_path / f"out{threads}/model.safetensors").read_bytes() == first for threads in (2, 5))


def test_16_bit_models_are_rounded_once(tmp_path: Path) -> None:
    """Two deltas too small for bfloat16 alone reach it together."""
    base = save(tmp_path / "b", {"w": bfloat16(numpy.array([1.0, 5.0]))})
    tuned = save(tmp_path / "v", {"w": numpy.array([0.003, 1.0], numpy.float32)}, file="vector")
    assert _float_of(merge, base, [tuned], [1.0], tmp_path / "one")[0] == 1.0
    assert _float_of(merge, base, [tuned, tuned], [1.0, 1.0], tmp_path / "two")[0] == 1.0078125


def _float_of(merging: object, base: Path, vectors: list[Path], coefficients: list[float], out: Path) -> Array:
    merge(base, vectors, coefficients, out)
    return _float(out / "model.safetensors")["w"]


def test_float64_tensors_keep_their_precision_and_whole_numbers_are_copied(tmp_path: Path) -> None:
    base = save(tmp_path / "b", {"w": numpy.array([1.0, 1e-12]), "ids": numpy.array([3, 4])})
    tuned = save(tmp_path / "m", {"w": numpy.array([1.5, 1e-12]), "ids": numpy.array([3, 4])})
    found = merge(base, [reference(tmp_path / "v", base, tuned)], [1.0], tmp_path / "out")
    assert found["w"].dtype == numpy.float64
    assert found["w"].tolist() == [1.5, 1e-12]
    assert found["ids"].tolist() == [3, 4]


def test_a_large_model_is_written_in_shards_with_an_index_that_transformers_reads(tmp_path: Path) -> None:
    base = model(tmp_path / "b", 0)
    tuned = reference(tmp_path / "v", base, model(tmp_path / "m", 1, base))
    whole = merge(base, [tuned], [0.5], tmp_path / "one")
    parts = merge(base, [tuned], [0.5], tmp_path / "many", shard_bytes=6000)
    assert all(numpy.array_equal(whole[name].view(numpy.uint8), parts[name].view(numpy.uint8)) for name in whole)
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_bytes())
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files
    assert len(files) > 1
    assert index["metadata"]["total_size"] == sum(values.nbytes for values in whole.values())
    again = merge(tmp_path / "many", [reference(tmp_path / "w", tmp_path / "many", tmp_path / "m")], [0.0], tmp_path / "back")
    assert all(numpy.array_equal(whole[name].view(numpy.uint8), again[name].view(numpy.uint8)) for name in whole)


def test_digests_found_while_writing_are_those_of_the_files(tmp_path: Path) -> None:
    from blake3 import blake3

    from buildsys.merging import options, stream
    from buildsys.progress import Progress

    base = model(tmp_path / "b", 0)
    tuned = reference(tmp_path / "v", base, model(tmp_path / "m", 1, base))
    work = stream.Merge(base, [tuned], ["x"], stream.Recipe("ties", options.completed("ties", {})[0], [1.0]), 2)
    (tmp_path / "out").mkdir()
    digests = stream.merge(work, tmp_path / "out", Progress(tmp_path, lambda text, share: None, {}), 6000)["digests"]
    assert len(digests) > 1
    assert digests == {path.name: blake3(path.read_bytes()).hexdigest() for path in (tmp_path / "out").glob("*.safetensors")}


# coefficients over a model


def test_a_list_is_a_gradient_over_depth(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.w" for layer in range(5)]
    base = checkpoint(tmp_path / "b", {name: [0.0] for name in [*names, "model.embed_tokens.weight", "model.norm.weight"]})
    checkpoint(tmp_path / "m", {name: [1.0] for name in [*names, "model.embed_tokens.weight", "model.norm.weight"]})
    found = merge(base, [reference(tmp_path / "v", base, tmp_path / "m")], [[0.0, 1.0, 0.5]], tmp_path / "out")
    assert [found[name].item() for name in names] == [0.0, 0.5, 1.0, 0.75, 0.5]
    assert found["model.embed_tokens.weight"].item() == 0.0
    assert found["model.norm.weight"].item() == 0.5


def test_of_patterns_the_longest_decides_in_any_order() -> None:
    table = {"*": 1.0, "*.mlp.*": 0.5, "*.mlp.up*": [0.0, 2.0]}
    for recipe in (table, dict(reversed(table.items()))):
        assert recipes.at(recipe, "layers.0.attn.q", 0.5) == 1.0
        assert recipes.at(recipe, "layers.0.mlp.down", 0.5) == 0.5
        assert recipes.at(recipe, "layers.0.mlp.up", 0.5) == 1.0
    assert recipes.at({"*.mlp.*": 1.0}, "norm", 1.0) == 0.0


def test_a_pattern_that_matches_nothing_is_refused(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, one, _ = trio
    with pytest.raises(BuildError) as caught:
        merge(base, [one], [{"*.mpl.*": 1.0}], tmp_path / "out")
    assert str(caught.value) == (
        "error: pattern '*.mpl.*' matches no tensor\n  vector   vector 1\n  tensors  a, … (2)\nhint: patterns are globs over whole names: '*.mlp.*'"
    )


# refusals


def test_a_tensor_of_another_shape_is_named_with_both_sides_before_anything_is_written(
    trio: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, *_ = trio
    folder = checkpoint(tmp_path / "v", {"a": [1, 2, 3]})
    (folder / "model.safetensors").rename(folder / "vector.safetensors")
    with pytest.raises(BuildError) as caught:
        merge(base, [folder], [1.0], tmp_path / "out")
    assert str(caught.value) == (
        "error: tensor 'a' does not match\n"
        "  base      float32 [4]\n"
        "  vector 1  [3]\n"
        "hint: a vector is taken from a model that was tuned from this base"
    )
    assert not list((tmp_path / "out").iterdir())


def test_vectors_of_nothing_but_zeros_are_refused(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, *_ = trio
    with pytest.raises(BuildError) as caught:
        merge(base, [reference(tmp_path / "v", base, base)], [1.0], tmp_path / "out")
    assert caught.value.headline == "the merge changes nothing: its result is the base, bit for bit"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_result_that_is_not_finite_is_refused(tmp_path: Path, dtype: str) -> None:
    base = model(tmp_path / "b", 0, dtype=dtype)
    tuned = reference(tmp_path / "v", base, model(tmp_path / "m", 1, base, dtype, scale=1))
    with pytest.raises(BuildError, match="is not finite"):
        merge(base, [tuned], [{"float16": 1e5, "bfloat16": 3e38, "float32": 3e38}[dtype]], tmp_path / "out", scale=1000.0)


def test_masks_and_bytes_are_the_same_in_another_process_under_another_hash_seed(tmp_path: Path) -> None:
    base = model(tmp_path / "b", 0)
    vectors = [reference(tmp_path / f"v{i}", base, model(tmp_path / f"m{i}", i, base)) for i in (1, 2)]
    code = (
        "import sys; from pathlib import Path; from tests.merging import merge; root = Path(sys.argv[1]);"
        "merge(root / 'b', [root / 'v1', root / 'v2'], [0.5, 0.7], root / sys.argv[2], 'dare', elect='mass', threads=int(sys.argv[3]))"
    )
    for seed, threads in (("1", "1"), ("2", "2")):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), f"o{seed}", threads], check=True, env=environment, cwd=Path(__file__).parents[1]
        )
    assert (tmp_path / "o1/model.safetensors").read_bytes() == (tmp_path / "o2/model.safetensors").read_bytes()
    assert vectors


def test_spectral_methods_are_those_that_need_torch() -> None:
    """An elementwise merge imports no torch: that is two seconds of a merge of three."""
    code = "import sys; import buildsys.merging.stream, buildsys.rules.merge; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "False\n"
    assert set(SPECTRAL) <= set(METHODS)


@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "ties", "dare", "breadcrumbs"])
def test_one_call_a_piece_gives_the_bytes_of_the_general_way(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from buildsys.merging import fused

    base = model(tmp_path / "b", 0)
    vectors = [
        reference(tmp_path / f"v{i}", base, model(tmp_path / f"m{i}", i, base, scale=0.01), kept)
        for i, kept in ((1, "bfloat16"), (2, "float32"), (3, "bfloat16"))
    ]
    given = {"elect": "mass", "mean": "coefficient"} if method == "dare" else {}
    merge(base, vectors, [0.5, -0.25, 1.0], tmp_path / "one", method, **given)
    asked = []
    monkeypatch.setattr(fused, "fits", lambda deltas: bool(asked.append(deltas)))
    merge(base, vectors, [0.5, -0.25, 1.0], tmp_path / "other", method, **given)
    assert asked
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "other/model.safetensors").read_bytes()
