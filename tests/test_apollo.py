"""APOLLO against an independent float64 reading of algorithm 1, and the faults of others that it must not have."""

import math

import pytest
import torch

from buildsys.training.apollo import Apollo
from buildsys.training.updates import (
    LIMIT,
    adamw_update,
    apollo_factors,
    gathered_gradients,
    gaussian_projection,
    multiplied_gradients,
    no_projection,
    sparse_projection,
)
from tests.checkpoints import tiny

ORDER, SIGNS = [5, 1, 2, 3, 4, 0], [1.0, -1.0, -1.0, 1.0, 1.0, -1.0]
PROJECTION = [-0.270227, -0.167826, -0.883914, -0.400605]
SHAPES = {"wide": (3, 8), "tall": (8, 3), "square": (5, 5), "norm": (6,)}


def reference(
    shape: tuple[int, ...], gradients: list[torch.Tensor], name: str, *, rank: int, lr: float, decay: float, gap: int, mini: bool
) -> torch.Tensor:
    """Algorithm 1 written out in float64, bias corrected before the limiter, α = √(d/r)."""
    weight = torch.ones(shape, dtype=torch.float64)
    b1, b2, eps = 0.9, 0.999, 1e-8
    tall = shape[0] > shape[1]
    d, big = min(shape), max(shape)
    r = 1 if mini else min(rank, d)
    m, v, previous = torch.zeros(r, big, dtype=torch.float64), torch.zeros(r, big, dtype=torch.float64), 0.0
    for t, gradient in enumerate(gradients, 1):
        g = gradient.double().T if tall else gradient.double()
        key = (0, name, (t - 1) // gap)
        p = (gaussian_projection(r, d, key) if mini else sparse_projection(r, d, key).dense()).double()
        compressed = p @ g
        m, v = b1 * m + (1 - b1) * compressed, b2 * v + (1 - b2) * compressed**2
        adapted = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
        if mini:
            s = adapted.norm() / (compressed.norm() + 1e-8) * torch.ones(big, dtype=torch.float64)
        else:
            s = adapted.norm(dim=0) / (compressed.norm(dim=0) + 1e-8)
        u = math.sqrt(d / r) * g * s
        norm = float(u.norm())
        if previous and norm > LIMIT * previous:
            u, norm = u * (LIMIT * previous / norm), LIMIT * previous
        previous = norm or previous
        weight = weight * (1 - lr * decay) - lr * (u.T if tall else u)
    return weight


def trained(
    shape: tuple[int, ...], gradients: list[torch.Tensor], *, name: str = "w", dtype: torch.dtype = torch.float32, **options: object
) -> tuple[torch.Tensor, Apollo]:
    parameter = torch.nn.Parameter(torch.ones(shape, dtype=dtype))
    optimizer = Apollo([(name, parameter)], **{"lr": 0.01, "rank": 2, **options})  # type: ignore[arg-type]
    for gradient in gradients:
        parameter.grad = gradient.clone().to(dtype)
        optimizer.step()
    return parameter.detach(), optimizer


def gradients(shape: tuple[int, ...], number: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * (1 + i % 3) for i in range(number)]


@pytest.mark.parametrize("mini", [False, True])
@pytest.mark.parametrize("shape", ["wide", "tall", "square"])
def test_update_matches_a_float64_reference_over_50_updates(shape: str, mini: bool) -> None:
    given = gradients(SHAPES[shape], 50)
    found, _ = trained(SHAPES[shape], given, mini=mini, weight_decay=0.1, update_proj_gap=20)
    expected = reference(SHAPES[shape], given, "w", rank=2, lr=0.01, decay=0.1, gap=20, mini=mini)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_tensor_that_is_no_matrix_gets_adam() -> None:
    shape = SHAPES["norm"]
    given = gradients(shape, 10)
    found, _ = trained(shape, given)
    other = torch.nn.Parameter(torch.ones(shape))
    adam = torch.optim.AdamW([other], lr=0.01, weight_decay=0.0)
    for gradient in given:
        other.grad = gradient.clone()
        adam.step()
    torch.testing.assert_close(found, other.detach(), rtol=1e-5, atol=1e-6)


def test_the_first_update_has_the_size_of_adams() -> None:
    """α = √(d/r) puts the learning rate on AdamW's scale: within a factor of two for a square matrix at a quarter of its rank."""
    gradient = gradients((64, 64), 1)[0]
    found, _ = trained((64, 64), [gradient], rank=16, lr=1.0)
    adam = adamw_update(gradient, torch.zeros(64, 64), torch.zeros(64, 64), 1, beta1=0.9, beta2=0.999, epsilon=1e-8)
    assert 0.5 < float((found - 1).norm() / adam.norm()) < 2


def test_gradients_of_zeros_do_not_freeze_the_tensor() -> None:
    given = [torch.zeros(3, 8), torch.zeros(3, 8), *gradients((3, 8), 3)]
    found, _ = trained((3, 8), given)
    assert torch.isfinite(found).all()
    assert (found != 1).all()


def test_the_norm_of_an_update_grows_by_one_percent_at_most() -> None:
    small, large = torch.full((3, 8), 1e-3), torch.full((3, 8), 1e3)
    one, _ = trained((3, 8), [small], lr=1.0)
    two, _ = trained((3, 8), [small, large], lr=1.0)
    first, second = one - 1, two - one
    assert float(second.norm()) <= float(first.norm()) * LIMIT * 1.0001


def test_two_runs_are_bit_identical() -> None:
    given = gradients((3, 8), 5)
    assert torch.equal(trained((3, 8), given)[0], trained((3, 8), given)[0])


def test_tensors_of_one_shape_have_projections_of_their_own() -> None:
    given = gradients((12, 20), 5)
    assert not torch.equal(trained((12, 20), given, name="a")[0], trained((12, 20), given, name="b")[0])


def test_state_loads_without_pickled_objects_and_goes_on_bit_identically(tmp_path: object) -> None:
    given = gradients((3, 8), 8)
    whole, _ = trained((3, 8), given)
    half, optimizer = trained((3, 8), given[:4])
    torch.save(optimizer.state_dict(), f"{tmp_path}/state.pt")
    parameter = torch.nn.Parameter(half.clone())
    resumed = Apollo([("w", parameter)], lr=0.01, rank=2)
    resumed.load_state_dict(torch.load(f"{tmp_path}/state.pt", weights_only=True))
    for gradient in given[4:]:
        parameter.grad = gradient.clone()
        resumed.step()
    assert torch.equal(parameter.detach(), whole)


def test_state_is_two_small_matrices_and_two_scalars() -> None:
    _, optimizer = trained((64, 100), gradients((64, 100), 1), rank=4)
    (state,) = optimizer.state_dict()["state"].values()
    assert sum(tensor.numel() for tensor in state.values()) == 2 * 4 * 100 + 2
    assert optimizer.state_bytes() == 4 * (2 * 4 * 100 + 1)


def test_gaussian_projections_have_the_variance_of_the_paper() -> None:
    drawn = gaussian_projection(16, 4000, ("seed", "name", 0))
    assert abs(float(drawn.var()) * 16 - 1) < 0.05


def test_projections_are_pinned_in_numbers() -> None:
    """If this fails, every vector that was trained would come out otherwise: raise the version of the rule."""
    assert [round(number, 6) for number in gaussian_projection(2, 2, (0, "w", 0)).flatten().tolist()] == PROJECTION
    drawn = sparse_projection(2, 6, (0, "w", 0))
    assert (drawn.order.tolist(), drawn.signs.tolist()) == (ORDER, SIGNS)


@pytest.mark.parametrize(("rank", "side"), [(1, 7), (16, 100), (5, 5)])
def test_a_sketch_has_one_sign_a_column_and_as_many_columns_a_row(rank: int, side: int) -> None:
    drawn = sparse_projection(rank, side, ("w",)).dense()
    assert drawn.abs().sum(0).tolist() == [1.0] * side
    assert set(drawn.abs().sum(1).tolist()) <= {side // rank, -(-side // rank)}


def test_sketches_keep_norms_and_angles_in_the_mean() -> None:
    """E[PᵀP] is the identity: each entry of the mean over 4000 draws is within five of its deviations, which is 1/√rank a draw at most."""
    drawn = [sparse_projection(4, 12, (draw,)).dense() for draw in range(4000)]
    mean = torch.stack([one.T @ one for one in drawn]).mean(0)
    torch.testing.assert_close(mean, torch.eye(12), rtol=0, atol=5 / math.sqrt(4 * 4000))


def test_a_sketch_spreads_norms_no_wider_than_a_gaussian_projection() -> None:
    given = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given /= given.norm()
    squares = torch.stack([(sparse_projection(4, 12, (draw,)).dense().double() @ given).square().sum() for draw in range(4000)])
    assert float(squares.mean()) == pytest.approx(1, abs=0.03)
    assert float(squares.var()) < 2 / 4


@pytest.mark.parametrize("tall", [False, True])
def test_sums_of_rows_are_the_product_with_the_dense_sketch(tall: bool) -> None:
    """The CPU's way and the accelerators'; more channels than one piece of work takes, and not a multiple of any block."""
    given = [torch.randn((9001, 30) if tall else (30, 9001), generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    drawn = [sparse_projection(7, 30, (seed,)) for seed in range(2)]
    found = gathered_gradients(given, drawn, tall)
    expected = multiplied_gradients(given, [one.dense() for one in drawn], tall, per_channel=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_that_are_views_are_compressed_alike() -> None:
    given, drawn = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).T, sparse_projection(7, 30, ())
    torch.testing.assert_close(gathered_gradients([given], [drawn], False), gathered_gradients([given.contiguous()], [drawn], False))


def test_the_whole_rank_compresses_nothing() -> None:
    given = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gathered_gradients([given], [no_projection(30)], False)[0][0], given)
    assert torch.equal(gathered_gradients([given.T.contiguous()], [no_projection(30)], True)[0][0], given)


def test_full_rank_and_no_projection_is_adamw_with_one_factor_a_channel() -> None:
    gradient = gradients((4, 6), 1)[0]
    betas = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    factors, _ = apollo_factors(
        gradient[None], gradient.norm(dim=0)[None], torch.zeros(1, 4, 6), torch.zeros(1, 4, 6), torch.zeros(1), 1, 4,
        per_channel=True, **betas,
    )  # fmt: skip
    adam = adamw_update(gradient, torch.zeros(4, 6), torch.zeros(4, 6), 1, **betas)
    torch.testing.assert_close(factors[0], adam.norm(dim=0) / gradient.norm(dim=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mini", [False, True])
def test_matrices_that_are_worked_on_together_come_out_as_they_do_alone(mini: bool) -> None:
    names, given = ("a", "b", "c"), [gradients((5, 9), 4, seed) for seed in range(3)]
    parameters = [torch.nn.Parameter(torch.ones(5, 9)) for _ in names]
    optimizer = Apollo(list(zip(names, parameters, strict=True)), lr=0.01, rank=2, mini=mini)
    for step in range(4):
        for parameter, own in zip(parameters, given, strict=True):
            parameter.grad = own[step].clone()
        optimizer.step()
    for name, parameter, own in zip(names, parameters, given, strict=True):
        torch.testing.assert_close(parameter.detach(), trained((5, 9), own, name=name, mini=mini)[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mini", [False, True])
@pytest.mark.parametrize("shape", [(300, 9000), (9000, 300)])
def test_the_number_of_threads_decides_no_bit(shape: tuple[int, int], mini: bool) -> None:
    given, before = gradients(shape, 3), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            found.append(trained(shape, given, rank=16, mini=mini)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


# 16-bit weights


def test_steps_below_the_last_bit_of_bfloat16_are_not_lost() -> None:
    """Steps of an eighth of the last bit: to the nearest they are nothing, rounded stochastically they are right in the mean."""
    given = [torch.ones(64, 256)] * 32
    exact, _ = trained((64, 256), given, lr=2.0**-12)
    found, optimizer = trained((64, 256), given, lr=2.0**-12, dtype=torch.bfloat16)
    assert float((1 - found.float()).mean() / (1 - exact).mean()) == pytest.approx(1, abs=0.05)
    assert {tensor.dtype for tensor in optimizer.state_dict()["state"][0].values()} <= {torch.float32, torch.int64}


def test_float32_moments_of_bfloat16_weights_survive_a_checkpoint(tmp_path: object) -> None:
    given = gradients((8, 8), 6)
    whole, _ = trained((8, 8), given, dtype=torch.bfloat16)
    half, optimizer = trained((8, 8), given[:3], dtype=torch.bfloat16)
    torch.save(optimizer.state_dict(), f"{tmp_path}/state.pt")
    parameter = torch.nn.Parameter(half.clone())
    resumed = Apollo([("w", parameter)], lr=0.01, rank=2)
    resumed.load_state_dict(torch.load(f"{tmp_path}/state.pt", weights_only=True))
    for gradient in given[3:]:
        parameter.grad = gradient.bfloat16()
        resumed.step()
    assert torch.equal(parameter.detach(), whole)


# updates inside the backward pass


@pytest.mark.parametrize("mini", [False, True])
def test_updates_inside_the_backward_pass_are_the_same_and_leave_no_gradient(mini: bool) -> None:
    found = []
    for fused in (False, True):
        model, ids = tiny("llama"), torch.arange(24).view(2, 12)
        optimizer = Apollo(list(model.named_parameters()), lr=0.01, rank=4, mini=mini)
        if fused:
            optimizer.fuse()
        for _ in range(3):
            model(input_ids=ids, labels=ids).loss.backward()
            if fused:
                assert all(parameter.grad is None for parameter in model.parameters())
            optimizer.step()
            optimizer.zero_grad()
        found.append({name: parameter.detach() for name, parameter in model.named_parameters()})
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-5, atol=1e-7)


# a history to begin with


def test_a_direction_that_is_spread_is_added_whole_in_the_end() -> None:
    direction = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    parameter = torch.nn.Parameter(torch.ones(3, 8))
    optimizer = Apollo([("w", parameter)], lr=0.01, rank=2)
    optimizer.begin_from({"w": direction}, spread=True)
    for _ in range(200):
        parameter.grad = torch.zeros(3, 8)
        optimizer.step()
    torch.testing.assert_close(parameter.detach() - 1, direction, rtol=1e-4, atol=1e-5)


def test_a_history_is_one_update_whose_gradient_pointed_against_the_direction() -> None:
    direction, gradient = gradients((3, 8), 1, seed=5)[0], gradients((3, 8), 1)[0]
    started = torch.nn.Parameter(torch.ones(3, 8))
    optimizer = Apollo([("w", started)], lr=0.01, rank=2)
    optimizer.begin_from({"w": direction}, spread=False)
    started.grad = gradient.clone()
    optimizer.step()
    imagined = -direction * (gradient.norm() / direction.norm())
    first, _ = trained((3, 8), [imagined])
    second, _ = trained((3, 8), [imagined, gradient])
    torch.testing.assert_close(started.detach() - 1, second - first, rtol=1e-4, atol=1e-6)
