"""Merge methods: golden values by hand, laws over all methods, and the streamed pass against a direct computation."""

from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from buildsys.errors import BuildError
from buildsys.merging import options, stream
from buildsys.merging.methods import METHODS, task_arithmetic, ties
from buildsys.progress import Progress
from buildsys.tensors import checkpoints, delta
from tests.checkpoints import checkpoint

T1 = [0.9, -0.1, 0.5, -0.8, 0.05, 0.3, 0, -0.6, 0.2, 0.7]
T2 = [-0.4, 0.2, 0.6, -0.7, 0.01, -0.9, 0, 0.3, 0.1, -0.5]
DELTAS = torch.tensor([T1, T2])
ONES = torch.ones(2)


def close(found: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("mean", ["count", "coefficient"])
def test_ties_at_density_a_fifth_keeps_two_entries_a_vector(mean: str) -> None:
    close(ties(DELTAS, ONES, density=0.2, mean=mean), [0.9, 0, 0, -0.75, 0, -0.9, 0, 0, 0, 0])


def test_ties_at_density_a_half() -> None:
    close(ties(DELTAS, ONES, density=0.5), [0.9, 0, 0.55, -0.75, 0, -0.9, 0, -0.6, 0, 0.7])


def test_mean_by_count_scales_with_the_coefficients() -> None:
    close(ties(DELTAS, torch.full((2,), 0.3), density=0.5), [0.27, 0, 0.165, -0.225, 0, -0.27, 0, -0.18, 0, 0.21])


def test_mean_by_coefficient_cancels_a_common_factor() -> None:
    close(ties(DELTAS, torch.full((2,), 0.3), density=0.5, mean="coefficient"), [0.9, 0, 0.55, -0.75, 0, -0.9, 0, -0.6, 0, 0.7])


def test_joint_trim_takes_one_threshold_for_all_vectors() -> None:
    # 20 entries, 4 kept: .9, −.9, −.8 and the two of magnitude .7, which tie
    close(ties(DELTAS, ONES, density=0.2, trim="joint"), [0.9, 0, 0, -0.75, 0, -0.9, 0, 0, 0, 0.7])


def test_election_by_count_takes_the_majority() -> None:
    deltas = torch.tensor([[1.0], [1.0], [-5.0]])
    close(ties(deltas, torch.ones(3), density=1.0), [-5.0])
    close(ties(deltas, torch.ones(3), density=1.0, elect="count"), [1.0])


def test_a_zero_sum_elects_nothing() -> None:
    close(ties(torch.tensor([[1.0], [-1.0]]), ONES, density=1.0), [0.0])


def test_ties_of_magnitude_all_stay() -> None:
    close(ties(torch.tensor([[1.0, -1.0, 1.0, 0.5]]), torch.ones(1), density=0.25), [1.0, -1.0, 1.0, 0.0])


def test_task_arithmetic_adds() -> None:
    close(task_arithmetic(DELTAS, torch.tensor([1.0, 0.5]), scale=2.0), [2 * (a + b / 2) for a, b in zip(T1, T2, strict=True)])


# laws, over every method

matrices = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.floats(-2, 2, width=32), min_size=6, max_size=6), min_size=n, max_size=n)
)


def call(method: str, deltas: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    return METHODS[method](deltas, coefficients)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=30)
@given(rows=matrices)
def test_order_of_the_vectors_does_not_matter(method: str, rows: list[list[float]]) -> None:
    deltas, ones = torch.tensor(rows), torch.ones(len(rows))
    torch.testing.assert_close(call(method, deltas.flip(0), ones), call(method, deltas, ones))


@pytest.mark.parametrize("method", METHODS)
def test_arguments_are_not_written_to(method: str) -> None:
    deltas, coefficients = DELTAS.clone(), ONES.clone()
    call(method, deltas, coefficients)
    assert torch.equal(deltas, DELTAS)
    assert torch.equal(coefficients, ONES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_result_is_float32_of_the_same_shape_and_repeats_bit_for_bit(method: str, dtype: torch.dtype) -> None:
    deltas = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = call(method, deltas, torch.ones(3))
    assert found.dtype == torch.float32
    assert found.shape == (4, 5)
    assert torch.equal(found, call(method, deltas, torch.ones(3)))


@pytest.mark.parametrize("method", METHODS)
def test_coefficients_of_zero_give_zero(method: str) -> None:
    assert not call(method, DELTAS, torch.zeros(2)).any()


@pytest.mark.parametrize("method", METHODS)
def test_one_vector_at_full_density_is_itself(method: str) -> None:
    full = {"density": 1.0} if "density" in options.names(method) else {}
    assert torch.equal(METHODS[method](DELTAS[:1], torch.ones(1), **full), DELTAS[0])


@pytest.mark.parametrize("method", METHODS)
def test_empty_tensors_merge_to_empty_ones(method: str) -> None:
    assert call(method, torch.empty(2, 0), ONES).shape == (0,)


@settings(deadline=None, max_examples=30)
@given(rows=matrices, density=st.floats(0.05, 1))
def test_ties_matches_a_float64_reference(rows: list[list[float]], density: float) -> None:
    deltas = torch.tensor(rows)
    exact = numpy.array(deltas.tolist())
    kept = max(1, int(numpy.floor(density * 6 + 1e-9)))
    trimmed = numpy.array([row * (abs(row) >= sorted(abs(row))[-kept]) for row in exact])
    sign = numpy.sign(trimmed.astype(numpy.float32).sum(0, dtype=numpy.float32))
    agree = (numpy.sign(trimmed) == sign) & (sign != 0)
    expected = (trimmed * agree).sum(0) / numpy.maximum(1, agree.sum(0))
    numpy.testing.assert_allclose(ties(deltas, torch.ones(len(rows)), density=density).numpy(), expected, atol=1e-6)


# options


def test_an_unknown_option_is_named_with_the_nearest_one() -> None:
    _, problems = options.completed("ties", {"densty": 0.2})
    hint = "options of 'ties' are density, trim, elect, mean, scale; did you mean 'density'"
    assert problems == [("densty", "merge method 'ties' has no option 'densty'", hint)]


@pytest.mark.parametrize("value", [0, -0.1, 1.5, float("nan"), True, "half"])
def test_a_density_outside_its_range_is_refused(value: object) -> None:
    assert options.completed("ties", {"density": value})[1] == [("density", f"'density' is {value!r}, expected a number in (0, 1]", "")]


# the streamed pass


def merged(
    base: Path, vectors: list[Path], coefficients: list[float], out: Path, method: str = "task_arithmetic", **given: object
) -> dict[str, torch.Tensor]:
    out.mkdir()
    chosen, problems = options.completed(method, given)
    assert not problems
    stream.merge(base, vectors, coefficients, method, chosen, out, Progress(out, lambda text, share: None, {}))
    found = checkpoints.Checkpoint(out)
    return {name: delta.read(found.entries[name]) for name in found.names}


def reference(tmp_path: Path, name: str, base: Path, model: Path, dtype: str = "float32") -> Path:
    """A vector by reference, as `extract` leaves it."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "vector.json").write_text(f'{{"base": "", "dtype": "{dtype}", "model": ""}}')
    (folder / "base").symlink_to(base)
    (folder / "model").symlink_to(model)
    return folder


@pytest.fixture
def trio(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base and two vectors from it, by reference."""
    base = checkpoint(tmp_path / "b", {"a": [1, 2, 3, 4], "c": [0.5]})
    one = checkpoint(tmp_path / "m1", {"a": [2, 2, 3, 3], "c": [0.5]})
    two = checkpoint(tmp_path / "m2", {"a": [1, 4, 3, 5], "c": [1.5]})
    return base, reference(tmp_path, "v1", base, one), reference(tmp_path, "v2", base, two)


def test_base_plus_a_vector_is_the_tuned_model(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, one, _ = trio
    found = merged(base, [one], [1.0], tmp_path / "out")
    assert found["a"].tolist() == [2, 2, 3, 3]
    assert found["c"].tolist() == [0.5]


def test_a_negative_coefficient_takes_the_vector_away(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, one, two = trio
    found = merged(base, [one, two], [1.0, -1.0], tmp_path / "out")
    assert found["a"].tolist() == [2, 0, 3, 2]
    assert found["c"].tolist() == [-0.5]


def test_a_negative_coefficient_flips_before_election(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, one, two = trio
    found = merged(base, [one, two], [1.0, -1.0], tmp_path / "out", "ties", density=1.0)
    # τ1 = [1, 0, 0, −1], −τ2 = [0, −2, 0, −1]: the last entries agree, and are averaged
    assert found["a"].tolist() == [2, 0, 3, 3]


def test_a_threshold_over_the_whole_model_trims_small_tensors_away(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, _, two = trio
    # τ2 = [0, 2, 0, 1 | 1]: one of five entries is kept, the 2
    found = merged(base, [two], [1.0], tmp_path / "out", "ties", density=0.2, trim="model")
    assert found["a"].tolist() == [1, 4, 3, 4]
    assert found["c"].tolist() == [0.5]


@settings(deadline=None, max_examples=25)
@given(values=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=40), density=st.floats(0.01, 1))
def test_the_threshold_of_the_whole_model_is_exact(tmp_path_factory: pytest.TempPathFactory, values: list[float], density: float) -> None:
    folder = tmp_path_factory.mktemp("t")
    half = len(values) // 2
    checkpoint(folder, {"a": values[:half], "b": values[half:]})
    (folder / "model.safetensors").rename(folder / "vector.safetensors")
    kept = max(1, int(density * len(values) + 1e-9))
    expected = sorted((abs(numpy.float32(v)) for v in values), reverse=True)[kept - 1]
    assert stream.model_threshold(delta.Vector(folder), len(values), density) == expected


def test_the_output_is_the_same_bytes_for_any_order_of_tensors_and_runs(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, one, two = trio
    merged(base, [one, two], [0.3, 0.7], tmp_path / "x", "ties")
    merged(base, [one, two], [0.3, 0.7], tmp_path / "y", "ties")
    assert (tmp_path / "x/model.safetensors").read_bytes() == (tmp_path / "y/model.safetensors").read_bytes()


def test_16_bit_models_are_rounded_once(tmp_path: Path) -> None:
    """Two deltas too small for bfloat16 alone reach it together."""
    base, tuned = tmp_path / "b", tmp_path / "v"
    for folder, name, dtype, values in ((base, "model", "BF16", [1.0]), (tuned, "vector", "F32", [0.003])):
        folder.mkdir()
        writer = checkpoints.Writer(folder / f"{name}.safetensors", {"w": (dtype, (1,))}, {})
        writer.write("w", delta.raw(torch.tensor(values, dtype=delta.TORCH[dtype])))
        writer.close()
    (base / "config.json").write_text("{}")
    assert merged(base, [tuned], [1.0], tmp_path / "one")["w"].item() == 1.0
    assert merged(base, [tuned, tuned], [1.0, 1.0], tmp_path / "two")["w"].item() == 1.0078125


def test_a_tensor_of_another_shape_is_named_with_both_sides_before_anything_is_written(
    trio: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, *_ = trio
    folder = checkpoint(tmp_path / "v", {"a": [1, 2, 3]})
    (folder / "model.safetensors").rename(folder / "vector.safetensors")
    with pytest.raises(BuildError) as caught:
        merged(base, [folder], [1.0], tmp_path / "out")
    assert str(caught.value) == (
        "error: tensor 'a' does not match\n"
        "  base      float32 [4]\n"
        "  vector 1  float32 [3]\n"
        "hint: a vector is taken from a model that was tuned from this base"
    )
    assert not list((tmp_path / "out").iterdir())
