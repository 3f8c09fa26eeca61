"""Vectors made from vectors: weighted sums, and the thresholds at which one is trimmed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from buildsys.errors import BuildError
from buildsys.machine import cores
from buildsys.merging.deltas import Deltas, Pool
from buildsys.merging.sparsified import task_arithmetic
from buildsys.merging.stream import evaluated
from buildsys.merging.thresholds import kept
from buildsys.tensors import writing
from buildsys.tensors.vectors import Vector

if TYPE_CHECKING:
    from buildsys.progress import Progress


def weighted_sum(
    folders: Sequence[Path], digests: Sequence[str], coefficients: Sequence[float], dtype: str | None, out: Path, progress: Progress
) -> dict[str, Any]:
    """Write Σ α·τ as a vector, rounded once. Raises BuildError where two vectors have a tensor in two shapes, and for a sum of 0."""
    vectors = [Vector(folder) for folder in folders]
    shapes: dict[str, tuple[int, ...]] = {}
    for position, vector in enumerate(vectors, 1):
        for name, tau in vector.taus.items():
            if shapes.setdefault(name, tau.shape) != tau.shape:
                facts = [("the others", str(list(shapes[name]))), (f"vector {position}", str(list(tau.shape)))]
                raise BuildError(f"tensor '{name}' does not match", facts, "vectors of one sum come from one base")
        if vector.differs:
            facts = [(f"vector {position}", text) for text in vector.differs]
            raise BuildError("a vector of the sum has other tokens than its base", facts, "use it in a merge, with tokenizer = …")
    short = all(tau.short for vector in vectors for tau in vector.taus.values()) if dtype is None else dtype == "bfloat16"
    kind = "BF16" if short else "F32"
    pool = Pool(cores())
    writer = writing.Writer(out / "vector.safetensors", {name: (kind, shape) for name, shape in shapes.items()}, {})
    squares = 0.0
    for position, name in enumerate(sorted(shapes)):
        progress(name, position / len(shapes))
        taking = [at for at, coefficient in enumerate(coefficients) if coefficient]
        deltas = _alone(name, shapes[name], [vectors[at] for at in taking], [coefficients[at] for at in taking], digests, pool)
        squares += writing.write_rounded(writer, name, kind, evaluated(deltas, task_arithmetic(deltas, 1.0)))
    writer.close()
    pool.close()
    if not squares:
        raise BuildError("the sum of the vectors is 0 everywhere", [("vectors", str(len(vectors)))], "its parts cancel")
    return {"tensors": len(shapes), "dtype": "bfloat16" if short else "float32", "tau_norm": squares**0.5}


def thresholds(vector: Vector, density: float) -> Callable[[str], numpy.float32]:
    """Tensor -> the magnitude of the last entry that a trim per tensor keeps, as `ties` finds it."""
    pool = Pool(cores())
    found: dict[str, numpy.float32] = {}

    def of(name: str) -> numpy.float32:
        if name not in found:
            deltas = _alone(name, vector.taus[name].shape, [vector], [1.0], [""], pool)
            found[name] = kept(deltas, density)[0]
        return found[name]

    return of


def _alone(
    name: str, shape: tuple[int, ...], vectors: Sequence[Vector], coefficients: Sequence[float], digests: Sequence[str], pool: Pool
) -> Deltas:
    """The vectors of one tensor without a base to add them to."""
    nothing = numpy.broadcast_to(numpy.float32(0), shape)
    return Deltas(name, nothing, [vector.taus.get(name) for vector in vectors], coefficients, digests, pool)
