"""Merge methods: golden values by hand, laws over all of them, each against an independent computation."""

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from buildsys.errors import BuildError
from buildsys.merging import options, stream, thresholds
from buildsys.merging.deltas import Pool
from buildsys.merging.methods import METHODS, SPECTRAL
from tests.merging import MATRIX, deltas_of, merged, taken

T1 = [0.9, -0.1, 0.5, -0.8, 0.05, 0.3, 0, -0.6, 0.2, 0.7]
T2 = [-0.4, 0.2, 0.6, -0.7, 0.01, -0.9, 0, 0.3, 0.1, -0.5]
PAIR = [numpy.array(T1, numpy.float32), numpy.array(T2, numpy.float32)]


def close(found: numpy.ndarray, expected: object, atol: float = 1e-6) -> None:
    numpy.testing.assert_allclose(found, numpy.asarray(expected, numpy.float32), atol=atol)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> numpy.ndarray:
    return (numpy.random.default_rng(seed).standard_normal(shape) * scale).astype(numpy.float32)


# golden values, by hand


@pytest.mark.parametrize("mean", ["count", "coefficient"])
def test_ties_at_density_a_fifth_keeps_two_entries_a_vector(mean: str) -> None:
    close(merged("ties", PAIR, density=0.2, mean=mean), [0.9, 0, 0, -0.75, 0, -0.9, 0, 0, 0, 0])


def test_ties_with_one_entry_more_is_what_the_papers_code_keeps() -> None:
    close(merged("ties", PAIR, density=0.3), [0.9, 0, 0.6, -0.75, 0, -0.9, 0, 0, 0, 0.7])


def test_ties_at_density_a_half() -> None:
    close(merged("ties", PAIR, density=0.5), [0.9, 0, 0.55, -0.75, 0, -0.9, 0, -0.6, 0, 0.7])


def test_mean_by_count_scales_with_the_coefficients() -> None:
    close(merged("ties", PAIR, [0.3, 0.3], density=0.5), [0.27, 0, 0.165, -0.225, 0, -0.27, 0, -0.18, 0, 0.21])


def test_mean_by_coefficient_cancels_a_common_factor() -> None:
    close(merged("ties", PAIR, [0.3, 0.3], density=0.5, mean="coefficient"), [0.9, 0, 0.55, -0.75, 0, -0.9, 0, -0.6, 0, 0.7])


@pytest.mark.parametrize("mean", ["count", "coefficient"])
def test_a_negative_coefficient_flips_before_election_under_either_mean(mean: str) -> None:
    # −t2 = [.4, −.2, −.6, .7, −.01, .9, 0, −.3, −.1, .5]: what t2 would have added is taken away, nothing changes its sign
    close(merged("ties", PAIR, [1, -1], density=0.5, mean=mean), [0.65, 0, -0.6, -0.8, 0, 0.9, 0, -0.6, 0, 0.6])


def test_joint_trim_takes_one_threshold_for_all_vectors() -> None:
    # 20 entries, 4 kept: .9, −.9, −.8 and the two of magnitude .7, which tie
    close(merged("ties", PAIR, density=0.2, trim="joint"), [0.9, 0, 0, -0.75, 0, -0.9, 0, 0, 0, 0.7])


def test_election_by_count_takes_the_majority() -> None:
    three = [numpy.array([value]) for value in (1.0, 1.0, -5.0)]
    close(merged("ties", three, density=1.0), [-5.0])
    close(merged("ties", three, density=1.0, elect="count"), [1.0])


@pytest.mark.parametrize("elect", ["mass", "count"])
def test_a_zero_sum_elects_nothing(elect: str) -> None:
    close(merged("ties", [numpy.array([1.0]), numpy.array([-1.0])], density=1.0, elect=elect), [0.0])


def test_ties_of_magnitude_all_stay() -> None:
    close(merged("ties", [numpy.array([1.0, -1.0, 1.0, 0.5])], density=0.25), [1.0, -1.0, 1.0, 0.0])


def test_task_arithmetic_adds() -> None:
    close(merged("task_arithmetic", PAIR, [1, 0.5], scale=2.0), [2 * (a + b / 2) for a, b in zip(T1, T2, strict=True)])


def test_linear_averages_and_a_negative_coefficient_still_takes_away() -> None:
    close(merged("linear", PAIR, [1, 3]), [(a + 3 * b) / 4 for a, b in zip(T1, T2, strict=True)])
    close(merged("linear", PAIR, [1, -3]), [(a - 3 * b) / 4 for a, b in zip(T1, T2, strict=True)])
    close(merged("linear", PAIR, [1, 3], normalize=False), [a + 3 * b for a, b in zip(T1, T2, strict=True)])


def test_breadcrumbs_drops_both_ends() -> None:
    # of ten, γ = .1 drops the .9 on top, and density .5 keeps the five below it: .8, .7, .6, .5, .3
    close(merged("breadcrumbs", PAIR[:1], density=0.5, gamma=0.1), [0, 0, 0.5, -0.8, 0, 0.3, 0, -0.6, 0, 0.7])


def test_breadcrumbs_keeps_the_top_where_gamma_is_less_than_one_entry() -> None:
    close(merged("breadcrumbs", PAIR[:1], density=0.2, gamma=0.01), [0.9, 0, 0, -0.8, 0, 0, 0, 0, 0, 0])


def test_sce_weighs_by_what_was_selected() -> None:
    one, other = numpy.array([3.0, 1.0, 1.0, 0.0], numpy.float32), numpy.array([1.0, 1.0, -1.0, 0.5], numpy.float32)
    # variances 1, 0, 1, .0625: of three that are not 0, density .7 keeps two; squares 10 and 2 give shares 10/12 and 2/12
    found = merged("sce", [one, other], density=0.7)
    close(found, [(10 * 3 + 2 * 1) / 12, 0, 0, 0])  # the third elects nothing: its sum is 0


def test_model_stock_of_orthogonal_deltas_is_the_base_and_of_equal_ones_themselves() -> None:
    one, other = numpy.array([1.0, 0.0]), numpy.array([0.0, 1.0])
    close(merged("model_stock", [one, other]), [0, 0])
    close(merged("model_stock", [one, one]), one)
    found = merged("model_stock", [numpy.array([1.0, 0.0]), numpy.array([1.0, 1.0])])
    cosine = math.sqrt(0.5)
    close(found, numpy.array([1.0, 0.5]) * 2 * cosine / (1 + cosine))


def test_slerp_goes_along_the_great_circle() -> None:
    found = merged("slerp", [numpy.array([-1.0, 1.0])], [0.5], base=numpy.array([1.0, 0.0]))
    close(found + numpy.array([1.0, 0.0]), [math.sqrt(0.5), math.sqrt(0.5)])


def test_nuslerp_turns_from_one_delta_to_the_other() -> None:
    found = merged("nuslerp", [numpy.array([1.0, 0.0]), numpy.array([0.0, 2.0])], [1, 2])
    close(found, [math.sin(math.pi / 6), 2 * math.sin(math.pi / 3)])


def test_nuslerp_by_row_and_by_column_are_each_others_transpose() -> None:
    one, other = random(5, 7, seed=1), random(5, 7, seed=2)
    by_row = merged("nuslerp", [one, other], [1, 2], flatten=False)
    by_column = merged("nuslerp", [one.T.copy(), other.T.copy()], [1, 2], flatten=False, row_wise=True)
    close(by_row, by_column.T)


def test_karcher_of_two_models_is_halfway_on_the_sphere_times_the_mean_norm() -> None:
    base = numpy.array([0.5, 0.5], numpy.float32)
    models = [numpy.array([2.0, 0.0]), numpy.array([0.0, 4.0])]
    found = merged("karcher", [model - base for model in models], base=base, max_iter=50)
    close(found + base, [3 * math.sqrt(0.5)] * 2, atol=1e-5)


# laws, over every method

matrices = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.floats(-2, 2, width=32), min_size=6, max_size=6), min_size=n, max_size=n)
)
DRAWN = ("dare", "della")  # a vector's mask goes with its digest
FULL = {
    "ties": {"density": 1.0},
    "dare": {"density": 1.0},
    "della": {"density": 1.0, "epsilon": 0.0},
    "breadcrumbs": {"density": 1.0, "gamma": 0.0},
}


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=20)
@given(rows=matrices)
def test_order_of_the_vectors_does_not_matter(method: str, rows: list[list[float]]) -> None:
    taus = [numpy.array(row, numpy.float32).reshape(2, 3) for row in rows][: taken(method, 4)]
    if len(taus) < taken(method, 1) or (method == "nuslerp" and len(taus) != 2):
        return
    base = random(2, 3)
    close(merged(method, taus[::-1], base=base), merged(method, taus, base=base), atol=2e-4 if method in SPECTRAL else 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_arguments_are_not_written_to(method: str) -> None:
    taus = [random(8, 6, seed=seed) for seed in range(taken(method, 3))]
    base, before = random(8, 6, seed=9), [tau.copy() for tau in taus]
    merged(method, taus, base=base)
    assert all(numpy.array_equal(tau, kept) for tau, kept in zip(taus, before, strict=True))
    assert numpy.array_equal(base, random(8, 6, seed=9))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (7,), (3, 4, 5), (1, 9), (300, 700)])
def test_result_is_float32_of_the_same_shape_and_repeats_bit_for_bit_on_any_number_of_threads(method: str, shape: tuple[int, ...]) -> None:
    taus = [random(*shape, seed=seed, scale=0.01) for seed in range(taken(method, 3))]
    base = random(*shape, seed=9)
    chosen = options.completed(method, {"steps": 3} if method == "wudi" else {})[0]
    found = []
    for threads in (1, 3):
        deltas = deltas_of(taus, base=base, pool=Pool(threads))
        found.append(stream.evaluated(deltas, METHODS[method](deltas, **chosen)))
    assert found[0].dtype == numpy.float32
    assert found[0].shape == shape
    assert numpy.array_equal(found[0], found[1])


@pytest.mark.parametrize("method", METHODS)
def test_one_vector_with_nothing_dropped_is_itself(method: str) -> None:
    if method in ("nuslerp", "iso_c"):
        return  # two vectors; another spectrum on purpose
    tau = random(12, 9, scale=0.1)
    close(merged(method, [tau], base=random(12, 9, seed=1), **FULL.get(method, {})), tau)


@pytest.mark.parametrize("method", METHODS)
def test_deltas_of_zero_give_zero(method: str) -> None:
    nothing = [numpy.zeros((6, 5), numpy.float32)] * taken(method, 3)
    close(merged(method, nothing, base=random(6, 5)), nothing[0], atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_all_coefficients_negated_give_the_negated_result(method: str) -> None:
    """Negation is right under every election and normalisation."""
    if method in ("slerp", "karcher"):
        return  # between models, not deltas: base − τ is no mirror of base + τ
    taus = [random(20, 10, seed=seed, scale=0.01) for seed in range(taken(method, 3))]
    ones = [1.0, 0.5, 0.25][: len(taus)]
    plus, minus = merged(method, taus, ones), merged(method, taus, [-one for one in ones])
    close(minus, -plus, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_empty_tensors_merge_to_empty_ones(method: str) -> None:
    if method in SPECTRAL:
        assert merged(method, [numpy.empty((0, 4))] * 2).shape == (0, 4)
    elif method not in ("slerp", "nuslerp"):
        assert merged(method, [numpy.empty(0)] * 2).shape == (0,)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@settings(deadline=None, max_examples=30)
@given(rows=matrices, density=st.floats(0.05, 1))
def test_ties_matches_a_float64_reference(dtype: str, rows: list[list[float]], density: float) -> None:
    taus = [torch.tensor(row).to(getattr(torch, dtype)).float().numpy() for row in rows]
    exact = numpy.array(taus, numpy.float64)
    kept = max(1, int(numpy.floor(density * 6 + 1e-9)))
    trimmed = numpy.array([row * (abs(row) >= sorted(abs(row))[-kept]) for row in exact])
    above, below = trimmed.clip(min=0).sum(0), trimmed.clip(max=0).sum(0)
    if (abs(above + below) < 1e-5 * (above - below)).any():
        return  # whether a sum is 0 is a matter of float32 there
    agree = numpy.where(above + below > 0, trimmed > 0, trimmed < 0) & (above + below != 0)
    expected = (trimmed * agree).sum(0) / numpy.maximum(1, agree.sum(0))
    close(merged("ties", taus, density=density), expected)


# thresholds, in tensors large enough to be counted rather than sorted


@pytest.mark.parametrize("short", [True, False])
def test_thresholds_are_exact_for_large_tensors(short: bool) -> None:
    taus = [random(300, 500, seed=seed) for seed in range(2)]
    if short:
        taus = [torch.from_numpy(tau).bfloat16().float().numpy() for tau in taus]
    deltas = deltas_of(taus)
    ordered = [numpy.sort(abs(tau).ravel())[::-1] for tau in taus]
    assert thresholds.kept(deltas, 0.2).tolist() == [own[29_999] for own in ordered]
    lows, highs = thresholds.band(deltas, 0.7, 0.1)
    assert (lows.tolist(), highs.tolist()) == ([own[119_999] for own in ordered], [own[15_000] for own in ordered])
    assert thresholds.kept_jointly(deltas, 0.2) == numpy.sort(abs(numpy.stack(taus)).ravel())[::-1][59_999]


# masks


def test_a_mask_depends_on_seed_tensor_and_vector_and_on_nothing_else() -> None:
    taus = [random(300, 400, seed=seed) for seed in range(2)]
    alone = merged("dare", taus[:1], density=0.5)
    assert numpy.array_equal(
        merged("dare", taus, [1.0, 1e-30], density=0.5) != 0, (alone != 0) | (merged("dare", taus[1:], density=0.5) != 0)
    )
    assert not numpy.array_equal(alone, merged("dare", taus[:1], density=0.5, seed=2))
    deltas = deltas_of(taus[:1], name="another")
    assert not numpy.array_equal(alone, stream.evaluated(deltas, METHODS["dare"](deltas, density=0.5)))
    assert abs((alone != 0).mean() - 0.5) < 0.01


def test_dare_keeps_the_mean_by_dividing_by_the_density() -> None:
    tau = numpy.ones((500, 400), numpy.float32)
    assert abs(merged("dare", [tau], density=0.25).mean() - 1) < 0.02
    assert set(numpy.unique(merged("dare", [tau], density=0.25))) == {0.0, 4.0}
    assert set(numpy.unique(merged("dare", [tau], density=0.25, rescale=False))) == {0.0, 1.0}


def test_della_keeps_large_entries_more_often_and_divides_by_their_own_probability() -> None:
    tau = numpy.sort(abs(random(400, 300)), axis=1)
    found = merged("della", [tau], density=0.5, epsilon=0.4)
    kept = found != 0
    assert abs(kept[:, :30].mean() - 0.32) < 0.02
    assert abs(kept[:, -30:].mean() - 0.68) < 0.02
    factors = (found / tau)[kept]
    assert 1 / 0.7 - 1e-3 < factors.min() < factors.max() < 1 / 0.3 + 1e-2


# spectra, against torch's own decompositions


def test_iso_c_has_the_singular_vectors_of_the_sum_and_one_singular_value() -> None:
    taus = [random(20, 12, seed=seed) for seed in range(3)]
    left, values, right = torch.linalg.svd(torch.tensor(sum(taus)).double(), full_matrices=False)
    close(merged("iso_c", taus), (left @ right * values.mean()).numpy(), atol=1e-4)


@pytest.mark.parametrize("shape", [(20, 12), (12, 20)])
def test_tsv_m_matches_the_papers_algorithm(shape: tuple[int, int]) -> None:
    taus = [random(*shape, seed=seed) for seed in range(3)]
    parts = [torch.linalg.svd(torch.tensor(tau).double(), full_matrices=False) for tau in taus]
    left = torch.cat([part[0][:, :4] for part in parts], 1)
    right = torch.cat([part[2][:4] for part in parts], 0)
    (p, _, q), (r, _, s) = torch.linalg.svd(left, full_matrices=False), torch.linalg.svd(right, full_matrices=False)
    expected = p @ q @ torch.diag(torch.cat([part[1][:4] for part in parts])) @ r @ s
    close(merged("tsv_m", taus), expected.numpy(), atol=1e-4)


def test_wudi_follows_torchs_adam_on_the_papers_loss() -> None:
    taus = [torch.tensor(random(6, 5, seed=seed)) for seed in range(3)]
    free = torch.nn.Parameter(torch.stack(taus).sum(0))
    adam = torch.optim.Adam([free], lr=0.01)
    for _ in range(40):
        adam.zero_grad()
        sum(((free - tau) @ tau.T).square().sum() / tau.square().sum() for tau in taus).backward()  # type: ignore[union-attr]
        adam.step()
    close(merged("wudi", [tau.numpy() for tau in taus], steps=40, learning_rate=0.01), free.detach().numpy(), atol=1e-4)


def test_svc_halves_what_two_equal_vectors_count_twice_and_leaves_orthogonal_ones() -> None:
    from buildsys.merging.spectral import calibrated

    one = random(8, 1) @ random(1, 6, seed=1)
    twice = deltas_of([one, one])
    close(calibrated(twice, one + one, 1.0), one, atol=1e-5)
    apart = numpy.zeros((8, 6), numpy.float32)
    apart[0, 0], other = 1.0, numpy.zeros((8, 6), numpy.float32)
    other[1, 1] = 2.0
    close(calibrated(deltas_of([apart, other]), apart + other, 1.0), apart + other, atol=1e-5)


def test_spectral_methods_average_what_is_no_map_of_activations() -> None:
    taus = [random(6, 5, seed=seed) for seed in range(2)]
    for method in SPECTRAL:
        deltas = deltas_of(taus, name="model.embed_tokens.weight")
        close(stream.evaluated(deltas, METHODS[method](deltas)), (taus[0] + taus[1]) / 2)
    assert MATRIX != "model.embed_tokens.weight"


# options


def test_an_unknown_option_is_named_with_the_nearest_one() -> None:
    _, problems = options.completed("ties", {"densty": 0.2})
    hint = "options of 'ties' are density, trim, elect, mean, scale; did you mean 'density'"
    assert problems == [("densty", "merge method 'ties' has no option 'densty'", hint)]


def test_an_option_of_another_method_is_named_with_its_owners() -> None:
    _, problems = options.completed("task_arithmetic", {"filter_wise": True})
    hint = "options of 'task_arithmetic' are scale; 'filter_wise' belongs to model_stock"
    assert problems == [("filter_wise", "merge method 'task_arithmetic' has no option 'filter_wise'", hint)]


@pytest.mark.parametrize("value", [0, -0.1, 1.5, float("nan"), True, "half"])
def test_a_density_outside_its_range_is_refused(value: object) -> None:
    assert options.completed("ties", {"density": value})[1] == [("density", f"'density' is {value!r}, expected a number in (0, 1]", "")]


@pytest.mark.parametrize(
    ("method", "given", "text"),
    [
        ("dare", {"seed": 1.5}, "'seed' is 1.5, expected a whole number from 1"),
        ("dare", {"rescale": 1}, "'rescale' is 1, expected true or false"),
        ("dare", {"elect": "most"}, "'elect' is 'most', expected 'none' or 'mass' or 'count'"),
        ("della", {"density": 0.1, "epsilon": 0.4}, "density ∓ epsilon/2 is -0.1 … 0.3, expected probabilities in (0, 1]"),
        ("breadcrumbs", {"density": 0.9, "gamma": 0.2}, "density + gamma is 1.1, expected at most 1"),
        ("nuslerp", {"row_wise": True}, "'row_wise' says which angles, and flatten = true takes one for the tensor"),
    ],
)
def test_options_are_checked_alone_and_together(method: str, given: dict[str, object], text: str) -> None:
    assert [problem[1] for problem in options.completed(method, given)[1]] == [text]


@pytest.mark.parametrize(("method", "number"), [("slerp", 2), ("nuslerp", 3)])
def test_a_method_of_few_vectors_refuses_more(method: str, number: int) -> None:
    with pytest.raises(BuildError, match="the method takes"):
        merged(method, [random(3, 3)] * number)
