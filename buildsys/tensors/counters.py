"""Random numbers that depend on a key and a place alone (counter-based): no state, no order, no thread and no device enters."""

from __future__ import annotations

import statistics
from functools import cache

import numpy

from buildsys.tensors.arrays import Array
from buildsys.tensors.machine_code import compiled

U64, F32 = numpy.uint64, numpy.float32


@compiled
def mixed(key, place):  # type: ignore[no-untyped-def]
    """SplitMix64 (Steele et al. 2014) at a position of its sequence: 64 random bits that depend on key and position alone."""
    z = key + (place + U64(1)) * U64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
    return z ^ (z >> U64(31))


@compiled
def _look_up(key, table, factor, out):  # type: ignore[no-untyped-def]
    """Four entries of the table a counter, 16 bits each."""
    for block in range((out.size + 3) // 4):
        bits = mixed(key, U64(block))
        for part in range(min(4, out.size - 4 * block)):
            out[4 * block + part] = table[(bits >> U64(16 * part)) & U64(0xFFFF)] * factor


@cache
def _normal_quantiles() -> Array:
    """(65536,) float32: N(0, 1) at equally likely places, scaled to a variance of 1."""
    normal = statistics.NormalDist()
    upper = numpy.array([normal.inv_cdf(0.5 + (i + 0.5) / 65536) for i in range(32768)])
    upper /= numpy.sqrt(numpy.square(upper).mean())
    return numpy.concatenate([-upper[::-1], upper]).astype(F32)


def gaussian(key: int, count: int, deviation: float) -> Array:
    """(count,) float32, i.i.d. N(0, deviation²), in steps of 1/65536 of probability. `key` has 64 bits."""
    out = numpy.empty(count, F32)
    _look_up(U64(key), _normal_quantiles(), F32(deviation), out)
    return out


@compiled
def _shuffle(key, order, signs):  # type: ignore[no-untyped-def]
    """Fisher-Yates: 31 bits of a counter choose the place, another one the sign."""
    for i in range(order.size):
        order[i] = i
    for i in range(order.size - 1, -1, -1):
        bits = mixed(key, U64(i))
        j = ((bits >> U64(33)) * U64(i + 1)) >> U64(31)
        order[i], order[j] = order[j], order[i]
        signs[i] = F32(1) - F32(2) * F32(bits & U64(1))


def signed_permutation(key: int, count: int) -> tuple[Array, Array]:
    """(order, signs): 0 … count − 1 shuffled, int32, and as many independent ±1, float32. `count` is below 2³¹."""
    order, signs = numpy.empty(count, numpy.int32), numpy.empty(count, F32)
    _shuffle(U64(key), order, signs)
    return order, signs


@compiled
def _round_up_or_down(bits, key, out):  # type: ignore[no-untyped-def]
    for block in range((out.size + 3) // 4):
        random = mixed(key, U64(block))
        for part in range(min(4, out.size - 4 * block)):
            i = 4 * block + part
            out[i] = (U64(bits[i]) + ((random >> U64(16 * part)) & U64(0xFFFF))) >> U64(16)


def stochastically_rounded(numbers: Array, key: int, out: Array) -> None:
    """float32 numbers -> bfloat16 bits (uint16): up or down with the probability that keeps the mean. Finite numbers only."""
    _round_up_or_down(numbers.view(numpy.uint32), U64(key), out)
