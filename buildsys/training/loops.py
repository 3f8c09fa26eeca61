"""What APOLLO reads of a gradient and of its moments, in one pass over memory each: compiled loops for a CPU, matrices side by side.

A channel is one thread's, so the number of threads decides no bit. On an accelerator torch's own operations do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy
import torch

from buildsys.tensors.machine_code import compiled

F32, F64 = numpy.float32, numpy.float64
_BLOCK = 2048  # channels whose sums stay in the first-level cache
_LINES = 32  # rows whose numbers stay in the caches while they are gathered, in whole cache lines of sums
_PIECE = 8192  # channels of one piece of work, a multiple of both: where a large matrix is cut depends on its size alone
_summing = partial(compiled, fastmath={"reassoc", "contract", "nsz"})  # sums may be taken in lanes


def side_by_side(work: Sequence[Callable[[], object]]) -> None:
    """Run everything on as many threads as torch has here, this one among them. A future for each would cost more than many matrices do."""
    threads = min(torch.get_num_threads(), len(work))
    others = [_pool(threads).submit(_run, work[start::threads]) for start in range(1, threads)]
    _run(work[::threads])
    for done in others:
        done.result()


def by_channels(loop: Callable[..., object], given: Iterable[Sequence[Any]], channels: int) -> None:
    """loop(*one, start, stop) for each that is given and pieces of its channels, side by side."""
    starts = range(0, channels, _PIECE)
    side_by_side([partial(loop, *one, start, min(start + _PIECE, channels)) for one in given for start in starts])


def _run(work: Sequence[Callable[[], object]]) -> None:
    for one in work:
        one()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


@_summing
def gather_columns(gradient, order, signs, out, norms, begin, end):  # type: ignore[no-untyped-def]
    """Rows of the gradient, with signs, into rows of out; the norm of each column -> norms. Columns are the channels, from begin to end.

    order, signs  (rows,): group b of out's rows, b·rows/rank to (b + 1)·rows/rank of them, is the sum of these rows
    """
    side, rank = gradient.shape[0], out.shape[0]
    for start in range(begin, end, _BLOCK):
        stop = min(start + _BLOCK, end)
        squares = norms[start:stop]
        squares[:] = 0
        for b in range(rank):
            sums = out[b, start:stop]
            sums[:] = 0
            for k in range(b * side // rank, (b + 1) * side // rank):
                row, sign = gradient[order[k], start:stop], signs[k]
                for j in range(row.size):
                    sums[j] += sign * row[j]
                for j in range(row.size):
                    squares[j] += row[j] * row[j]
        for j in range(start, stop):
            norms[j] = numpy.sqrt(norms[j])


@_summing
def gather_rows(gradient, order, signs, out, norms, begin, end):  # type: ignore[no-untyped-def]
    """As `gather_columns` for the transpose: rows are the channels. Some of them at a time, so that sums run along lines of out."""
    side, rank = gradient.shape[1], out.shape[0]
    for start in range(begin, end, _LINES):
        stop = min(start + _LINES, end)
        rows = gradient[start:stop]
        for i in range(rows.shape[0]):
            squares = F32(0)
            for j in range(side):
                squares += rows[i, j] * rows[i, j]
            norms[start + i] = numpy.sqrt(squares)
        for b in range(rank):
            sums = out[b, start:stop]
            sums[:] = 0
            for k in range(b * side // rank, (b + 1) * side // rank):
                column, sign = order[k], signs[k]
                for i in range(sums.size):
                    sums[i] += sign * rows[i, column]


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
def channel_squares(compressed, exp_avg, exp_avg_sq, adapted, raw, beta1, beta2, added, begin, end):  # type: ignore[no-untyped-def]
    """Moments go on by an update; Σ (M/(√V + added))² of each channel -> adapted, Σ R² -> raw. All (rank, channels) or (channels,)."""
    for start in range(begin, end, _BLOCK):
        stop = min(start + _BLOCK, end)
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
