"""Merging of arrays in memory and of tiny checkpoints, for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy

from buildsys.merging import options, stream
from buildsys.merging.deltas import Deltas, Given, Pool
from buildsys.merging.methods import METHODS, VECTORS_TAKEN
from buildsys.progress import Progress
from buildsys.tensors import arrays, checkpoints

POOL = Pool(2)
Array = numpy.ndarray
MATRIX = "model.layers.0.mlp.up_proj.weight"


def deltas_of(
    taus: Sequence[Array], coefficients: Sequence[float] | None = None, base: Array | None = None, name: str = MATRIX, pool: Pool = POOL
) -> Deltas:
    given = [numpy.asarray(tau, numpy.float32) for tau in taus]
    below = numpy.zeros(given[0].shape, numpy.float32) if base is None else numpy.asarray(base, numpy.float32)
    ones = [1.0] * len(given) if coefficients is None else coefficients
    digests = [tau.tobytes().hex()[:32] for tau in given]
    return Deltas(name, below, [Given(tau) for tau in given], ones, digests, pool)


def merged(
    method: str, taus: Sequence[Array], coefficients: Sequence[float] | None = None, base: Array | None = None, **given: object
) -> Array:
    """What a method makes of deltas in memory."""
    chosen, problems = options.completed(method, given)
    assert not problems, problems
    deltas = deltas_of(taus, coefficients, base)
    return stream.evaluated(deltas, METHODS[method](deltas, **chosen))


def taken(method: str, most: int) -> int:
    """How many vectors to give a method."""
    return min(VECTORS_TAKEN.get(method, most), most)


def reference(folder: Path, base: Path, model: Path, dtype: str = "float32") -> Path:
    """A vector by reference, as `extract` leaves it."""
    folder.mkdir(parents=True)
    (folder / "vector.json").write_text(f'{{"base": "", "dtype": "{dtype}", "model": ""}}')
    (folder / "base").symlink_to(base)
    (folder / "model").symlink_to(model)
    return folder


def merge(
    base: Path, vectors: Sequence[Path], coefficients: Sequence[object], out: Path, method: str = "task_arithmetic", *, threads: int = 2,
    shard_bytes: int = 5_000_000_000, recipe: dict[str, object] | None = None, **given: object,
) -> dict[str, Array]:  # fmt: skip
    """Merge folders into `out`, and read the result; bfloat16 as its bits."""
    out.mkdir()
    chosen, problems = options.completed(method, given)
    assert not problems, problems
    work = stream.Merge(
        base, vectors, [vector.name for vector in vectors], stream.Recipe(method, chosen, coefficients, **(recipe or {})), threads
    )  # type: ignore[arg-type]
    try:
        stream.merge(work, out, Progress(out, lambda text, share: None, {}), shard_bytes)
    finally:
        work.close()
    entries = checkpoints.Checkpoint(out).entries
    return {name: arrays.raw(entry).copy().reshape(entry.shape) for name, entry in entries.items()}
