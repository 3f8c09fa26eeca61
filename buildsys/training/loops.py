"""What APOLLO reads of a gradient and of its moments, in one pass over memory each: compiled loops for a CPU, matrices side by side.

A matrix is one thread's, so the number of threads decides no bit. On an accelerator torch's own operations do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy
import torch

from buildsys.tensors.formats import compiled

F32, F64 = numpy.float32, numpy.float64
_BLOCK = 2048  # channels whose sums stay in the first-level cache
_summing = partial(compiled, fastmath={"reassoc", "contract", "nsz"})  # sums may be taken in lanes


def side_by_side(work: Sequence[Callable[[], object]]) -> None:
    """Run everything on as many threads as torch has here, this one among them. A future for each would cost more than many matrices do."""
    threads = min(torch.get_num_threads(), len(work))
    others = [_pool(threads).submit(_run, work[start::threads]) for start in range(1, threads)]
    _run(work[::threads])
    for done in others:
        done.result()


def _run(work: Sequence[Callable[[], object]]) -> None:
    for one in work:
        one()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


@_summing
def row_norms(gradient, out):  # type: ignore[no-untyped-def]
    for i in range(gradient.shape[0]):
        total = F32(0)
        for j in range(gradient.shape[1]):
            total += gradient[i, j] * gradient[i, j]
        out[i] = numpy.sqrt(total)


@_summing
def column_norms(gradient, out):  # type: ignore[no-untyped-def]
    for start in range(0, gradient.shape[1], _BLOCK):
        stop = min(start + _BLOCK, gradient.shape[1])
        out[start:stop] = 0
        for i in range(gradient.shape[0]):
            row, sums = gradient[i, start:stop], out[start:stop]
            for j in range(row.size):
                sums[j] += row[j] * row[j]
        for j in range(start, stop):
            out[j] = numpy.sqrt(out[j])


@_summing
def project_rows(gradient, direction, out, norm):  # type: ignore[no-untyped-def]
    """gradient · direction -> out, a number a row; the norm of the gradient -> norm."""
    squares = F64(0)
    for i in range(gradient.shape[0]):
        total, own = F32(0), F32(0)
        for j in range(gradient.shape[1]):
            total += gradient[i, j] * direction[j]
            own += gradient[i, j] * gradient[i, j]
        out[i] = total
        squares += own
    norm[0] = F32(numpy.sqrt(squares))


@_summing
def project_columns(gradient, direction, out, norm):  # type: ignore[no-untyped-def]
    """direction · gradient -> out, a number a column; the norm of the gradient -> norm."""
    squares = F64(0)
    for start in range(0, gradient.shape[1], _BLOCK):
        stop = min(start + _BLOCK, gradient.shape[1])
        out[start:stop] = 0
        for i in range(gradient.shape[0]):
            row, sums, factor, own = gradient[i, start:stop], out[start:stop], direction[i], F32(0)
            for j in range(row.size):  # one loop for both would not become vector instructions
                sums[j] += factor * row[j]
            for j in range(row.size):
                own += row[j] * row[j]
            squares += own
    norm[0] = F32(numpy.sqrt(squares))


@_summing
def channel_squares(compressed, exp_avg, exp_avg_sq, beta1, beta2, added, adapted, raw):  # type: ignore[no-untyped-def]
    """Moments go on by an update; Σ (M/(√V + added))² of each channel -> adapted, Σ R² -> raw. All (rank, channels) or (channels,)."""
    for start in range(0, compressed.shape[1], _BLOCK):
        stop = min(start + _BLOCK, compressed.shape[1])
        adapted[start:stop] = 0
        raw[start:stop] = 0
        for i in range(compressed.shape[0]):
            given, first, second = compressed[i, start:stop], exp_avg[i, start:stop], exp_avg_sq[i, start:stop]
            moved, squares = adapted[start:stop], raw[start:stop]
            for j in range(given.size):
                first[j] = first[j] + (F32(1) - beta1) * (given[j] - first[j])
            for j in range(given.size):
                second[j] = beta2 * second[j] + (F32(1) - beta2) * given[j] * given[j]
            for j in range(given.size):
                scaled = first[j] / (numpy.sqrt(second[j]) + added)
                moved[j] += scaled * scaled
            for j in range(given.size):
                squares[j] += given[j] * given[j]


def arrays(*tensors: torch.Tensor) -> list[Any]:
    """The tensors' memory as NumPy sees it."""
    return [tensor.detach().numpy() for tensor in tensors]
