"""The accelerator's operations against the processor's loops, on the CPU device of torch: the same numbers for every method."""

import numpy
import pytest

from buildsys.merging import options, stream, thresholds
from buildsys.merging.accelerator import Accelerator
from buildsys.merging.deltas import Pool
from buildsys.merging.methods import METHODS, SPECTRAL
from tests.merging import deltas_of, reference, taken
from tests.test_merge_pass import model
from tests.test_merging import random


class Small(Accelerator):
    """Tiles so small that a test's tensors take several."""

    TILE = 1 << 12


DEVICE = Pool(1, Small("cpu"))
VARIANTS = [
    *((method, {}) for method in METHODS if method not in SPECTRAL),
    ("ties", {"trim": "joint", "elect": "count", "mean": "coefficient"}),
    ("dare", {"elect": "mass", "mean": "count", "rescale": False}),
    ("della", {"elect": "count", "mean": "sum"}),
    ("nuslerp", {"flatten": False}),
    ("nuslerp", {"flatten": False, "row_wise": True}),
    ("model_stock", {"filter_wise": True}),
]


@pytest.mark.parametrize(("method", "given"), VARIANTS, ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)))
@pytest.mark.parametrize("shape", [(300, 70), (40_000,), (3, 5)])
def test_a_method_gives_the_same_numbers_on_either(method: str, given: dict[str, object], shape: tuple[int, ...]) -> None:
    taus = [random(*shape, seed=seed, scale=0.01) for seed in range(taken(method, 3))]
    coefficients, base = [1.0, -0.5, 0.3][: len(taus)], random(*shape, seed=9)
    chosen = options.completed(method, given)[0]
    ours, theirs = (deltas_of(taus, coefficients, base, pool=pool) for pool in (Pool(2), DEVICE))
    expected = stream.evaluated(ours, METHODS[method](ours, **chosen))
    found = stream.evaluated(theirs, METHODS[method](theirs, **chosen))
    exact = method in ("linear", "task_arithmetic", "ties", "dare", "della", "breadcrumbs")
    numpy.testing.assert_allclose(found, expected, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-7)


def test_thresholds_are_exact_on_either() -> None:
    taus = [random(300, 500, seed=seed) for seed in range(2)]
    ours, theirs = (deltas_of(taus, [1.0, 0.5], pool=pool) for pool in (Pool(2), DEVICE))
    assert thresholds.kept(ours, 0.3).tolist() == thresholds.kept(theirs, 0.3).tolist()
    assert thresholds.kept_jointly(ours, 0.3) == thresholds.kept_jointly(theirs, 0.3)
    assert thresholds.least_variance(ours, 0.3) == pytest.approx(thresholds.least_variance(theirs, 0.3), rel=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_model_merges_to_the_same_bytes_on_either(tmp_path, dtype: str) -> None:  # type: ignore[no-untyped-def]
    from buildsys.progress import Progress

    base = model(tmp_path / "b", 0, dtype=dtype)
    kept = "bfloat16" if dtype == "bfloat16" else "float32"
    vectors = [reference(tmp_path / f"v{i}", base, model(tmp_path / f"m{i}", i, base, dtype, scale=0.01), kept) for i in (1, 2)]
    found = []
    for number, pool in enumerate((Pool(2), DEVICE)):
        work = stream.Merge(base, vectors, ["a", "b"], stream.Recipe("ties", options.completed("ties", {})[0], [0.5, -0.25]), 1)
        work.pool = pool
        out = tmp_path / f"out{number}"
        out.mkdir()
        stream.merge(work, out, Progress(out, lambda text, share: None, {}))
        found.append((out / "model.safetensors").read_bytes())
    assert found[0] == found[1]


def test_a_device_that_is_not_there_is_refused() -> None:
    import torch

    from buildsys.errors import BuildError

    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    with pytest.raises(BuildError, match="there is no device 'cuda' here"):
        stream.place_for("cuda")
    assert stream.place_for("auto") is stream.place_for("cpu")
