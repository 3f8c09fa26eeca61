"""The common case in one call a piece: bfloat16 models by reference, an entrywise rule. The loops of `kernels`, block by block.

Every call of a compiled loop from Python costs microseconds, and two threads wait for one lock around it; here a piece of a quarter
million entries is one call, and its blocks stay in the first caches. Gives the bytes that the general way gives.
"""

from __future__ import annotations

from typing import Any

import numpy

from buildsys.merging import kernels, processor
from buildsys.merging.deltas import Deltas
from buildsys.merging.entries import Entrywise, Rule
from buildsys.tensors import formats
from buildsys.tensors.arrays import Array
from buildsys.tensors.machine_code import carray, cgutils, compiled, intrinsic, types
from buildsys.tensors.vectors import Difference

_BLOCK = 8192  # entries whose τ of a few vectors the second-level cache holds


@intrinsic
def _pointer(context, address):  # type: ignore[no-untyped-def]
    """An address as a pointer: a list of arrays would be compiled anew for each length."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), build


@compiled
def _differences(base, models, rounded, start, size, below, taus):  # type: ignore[no-untyped-def]
    """Entries start … start + size of base -> below, and of each model − base -> taus. `models` holds the addresses of the pieces."""
    formats.decode_bfloat16(base[start : start + size], below.view(numpy.uint32))
    for v in range(models.size):
        raw = carray(_pointer(models[v]), base.shape, numpy.uint16)  # type: ignore[call-arg]
        tau = taus[v, :size]
        formats.difference_bfloat16(raw[start : start + size], below, rounded[v], tau.view(numpy.uint32), tau)


@compiled
def _count(base, models, rounded, counts):  # type: ignore[no-untyped-def]
    below, taus = numpy.empty(_BLOCK, numpy.float32), numpy.empty((models.size, _BLOCK), numpy.float32)
    for start in range(0, base.size, _BLOCK):
        size = min(_BLOCK, base.size - start)
        _differences(base, models, rounded, start, size, below[:size], taus)
        for v in range(models.size):
            kernels.count_upper(taus[v, :size].view(numpy.uint32), counts[v, 0], counts[v, 1])


@compiled
def _merge(base, models, rounded, first, coefficients, lows, highs, joint, elect, divide, divisor, shares, scale, keys, bound, factor, out):  # type: ignore[no-untyped-def]
    """first  where the piece begins in its tensor; elect: 0 none, 1 mass, 2 count; keys: of the masks, empty for none"""
    below, taus = numpy.empty(_BLOCK, numpy.float32), numpy.empty((models.size, _BLOCK), numpy.float32)
    delta, scratch = numpy.empty(_BLOCK, numpy.float32), numpy.empty(_BLOCK, numpy.float32)
    worst = numpy.uint32(0)
    for start in range(0, base.size, _BLOCK):
        size = min(_BLOCK, base.size - start)
        _differences(base, models, rounded, start, size, below[:size], taus)
        for v in range(keys.size):
            kernels.keep_random(taus[v, :size], first + start, keys[v], bound, factor)
        merged = delta[:size]
        if elect == 0:
            kernels.summed(taus, size, coefficients, lows, highs, joint, merged)
            if divisor != 1:
                kernels.divide(merged, divisor)
        else:
            kernels.elected(taus, size, coefficients, lows, highs, joint, elect == 2, divide, shares, merged)
        if scale != 1:
            kernels.scale(merged, scale)
        sums = scratch[:size]
        worst = max(worst, formats.added_bfloat16(below[:size], merged, sums.view(numpy.uint32), sums, out[start : start + size]))
    return worst


def fits(deltas: Deltas) -> bool:
    """True for the vectors that this module is about."""
    return (
        deltas.pool.place is processor
        and deltas.dtype == "BF16"
        and deltas.entry is not None
        and all(isinstance(tau, Difference) and tau.rows is None and tau.base == deltas.entry for tau in deltas.taus)
    )


def takes(deltas: Deltas, rule: Rule) -> bool:
    """True where `merge` can apply a rule."""
    return fits(deltas) and isinstance(rule, Entrywise) and rule.least is None and not rule.whole_rows


def count(deltas: Deltas, start: int, stop: int, counts: Array) -> None:
    """Adds the upper halves of each vector's magnitudes in a piece to its histograms, (n, 2, UPPER)."""
    base, models, rounded = _piece(deltas, start, stop)
    _count(base, models, rounded, counts)


def merge(deltas: Deltas, rule: Entrywise, start: int, stop: int, out: Array) -> bool:
    """base + merged τ of a piece, rounded once, into `out`. False where a result is not finite."""
    base, models, rounded = _piece(deltas, start, stop)
    lows, highs, divisor, divide, shares = rule.constants(deltas)
    keys, bound, factor = numpy.empty(0, numpy.uint64), numpy.uint64(0), numpy.float32(1)
    if rule.drawn is not None:
        keys = numpy.array([deltas.key(position, rule.drawn.seed) for position in range(deltas.n)], numpy.uint64)
        bound, factor = rule.drawn.bound, rule.drawn.factor
    elect = {"none": 0, "mass": 1, "count": 2}[rule.elect]
    worst = _merge(
        base, models, rounded, start, deltas.coefficients, lows, highs, rule.joint, elect, divide, numpy.float32(divisor), shares,
        numpy.float32(rule.scale), keys, bound, factor, out,
    )  # fmt: skip
    return bool(worst != 0x7F80)


def _piece(deltas: Deltas, start: int, stop: int) -> tuple[Array, Array, Array]:
    taus: list[Any] = deltas.taus
    models = numpy.array([tau.raw[1].ctypes.data + 2 * start for tau in taus], numpy.int64)
    return deltas.raw[start:stop], models, numpy.array([tau.short for tau in taus])
