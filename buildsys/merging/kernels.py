"""What happens to the entries of a tile, and what is counted of them: compiled loops over float32 arrays that a core's cache holds.

Tiles come as `taus`, (n, tile) float32, of which the first `size` entries are meant. Sums run over the vectors in their order, so the
result depends on no thread count.
"""

from __future__ import annotations

import numpy

from buildsys.tensors.counters import mixed
from buildsys.tensors.machine_code import compiled

U32, U64, F32, F64 = numpy.uint32, numpy.uint64, numpy.float32, numpy.float64
_BLOCK = 1024  # entries whose sums stay in the first-level cache

UPPER, LOWER = 1 << 15, 1 << 16  # bins of the two halves of a magnitude's bits


@compiled
def count_upper(bits, even, odd):  # type: ignore[no-untyped-def]
    """Adds the magnitudes of float32 numbers, by the upper half of their bits, to two histograms of `UPPER` bins.

    The bits of a magnitude grow with it. Two histograms, because two equal neighbours would wait for each other in one.
    """
    pairs = bits.size // 2 * 2
    for i in range(0, pairs, 2):
        even[(bits[i] >> U32(16)) & U32(0x7FFF)] += U32(1)
        odd[(bits[i + 1] >> U32(16)) & U32(0x7FFF)] += U32(1)
    if pairs < bits.size:
        even[(bits[pairs] >> U32(16)) & U32(0x7FFF)] += U32(1)


@compiled
def count_each_upper(bits, size, counts):  # type: ignore[no-untyped-def]
    """`count_upper` of n arrays at once: bits (n, tile), of which `size` are meant, counts (n, 2, UPPER)."""
    for v in range(bits.shape[0]):
        count_upper(bits[v, :size], counts[v, 0], counts[v, 1])


@compiled
def count_lower(bits, upper, found):  # type: ignore[no-untyped-def]
    """Adds the lower halves of those magnitudes whose upper half is `upper` to a histogram of `LOWER` bins."""
    for i in range(bits.size):
        if ((bits[i] >> U32(16)) & U32(0x7FFF)) == upper:
            found[bits[i] & U32(0xFFFF)] += U32(1)


@compiled
def weigh(tau, coefficient, out):  # type: ignore[no-untyped-def]
    for i in range(tau.size):
        out[i] = coefficient * tau[i]


@compiled
def summed(taus, size, coefficients, lows, highs, joint, out):  # type: ignore[no-untyped-def]
    """Σ α·τ over the vectors that keep the entry.

    coefficients  (n,) signed
    lows, highs   (n,) an entry is kept where low ≤ |τ| ≤ high, or |α·τ| with `joint`
    """
    zero = F32(0)
    for i in range(size):
        out[i] = zero
    for v in range(taus.shape[0]):
        a, low, high = coefficients[v], lows[v], highs[v]
        tau = taus[v, :size]
        for i in range(size):
            w = a * tau[i]
            m = abs(w) if joint else abs(tau[i])
            out[i] += w if m >= low and m <= high else zero


@compiled
def elected(taus, size, coefficients, lows, highs, joint, by_count, divide, shares, out):  # type: ignore[no-untyped-def]
    """Σ α·τ over the vectors that keep the entry and agree with its elected sign, divided as told.

    by_count  the sign that most vectors have; else the sign of the larger of Σ positive and −Σ negative α·τ; a draw gives 0
    divide    0: not | 1: by the number of those that agree | 2: by the sum of their |α| | 3: each times its share, by the sum of these
    shares    (n,) for 3; the sign is elected without them
    """
    zero, one = F32(0), F32(1)
    above, below = numpy.empty(_BLOCK, F32), numpy.empty(_BLOCK, F32)
    above_votes, below_votes = numpy.empty(_BLOCK, F32), numpy.empty(_BLOCK, F32)
    above_weight, below_weight = numpy.empty(_BLOCK, F32), numpy.empty(_BLOCK, F32)
    above_shared, below_shared = numpy.empty(_BLOCK, F32), numpy.empty(_BLOCK, F32)
    for start in range(0, size, _BLOCK):
        n = min(_BLOCK, size - start)
        for i in range(n):
            above_shared[i] = below_shared[i] = zero
            above[i] = below[i] = above_votes[i] = below_votes[i] = above_weight[i] = below_weight[i] = zero
        for v in range(taus.shape[0]):
            a, low, high = coefficients[v], lows[v], highs[v]
            weight = one if divide == 1 else abs(a) if divide == 2 else shares[v]
            tau = taus[v, start : start + n]
            for i in range(n):
                w = a * tau[i]
                m = abs(w) if joint else abs(tau[i])
                w = w if m >= low and m <= high else zero
                above[i] += w if w > zero else zero
                below[i] += w if w < zero else zero
            if divide != 0:
                for i in range(n):
                    w = a * tau[i]
                    m = abs(w) if joint else abs(tau[i])
                    w = w if m >= low and m <= high else zero
                    above_weight[i] += weight if w > zero else zero
                    below_weight[i] += weight if w < zero else zero
            if by_count:
                for i in range(n):
                    w = a * tau[i]
                    m = abs(w) if joint else abs(tau[i])
                    w = w if m >= low and m <= high else zero
                    above_votes[i] += one if w > zero else zero
                    below_votes[i] += one if w < zero else zero
            if divide == 3:
                for i in range(n):
                    w = a * tau[i]
                    above_shared[i] += weight * w if w > zero else zero
                    below_shared[i] += weight * w if w < zero else zero
        part = out[start : start + n]
        for i in range(n):
            lead = above_votes[i] - below_votes[i] if by_count else above[i] + below[i]
            total = above[i] if lead > zero else below[i]
            if divide == 3:
                total = above_shared[i] if lead > zero else below_shared[i]
            weight = above_weight[i] if lead > zero else below_weight[i]
            divisor = weight if divide != 0 and weight > zero else one
            part[i] = total / divisor if lead != zero else zero


@compiled
def scale(out, factor):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = out[i] * factor


@compiled
def divide(out, divisor):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = out[i] / divisor


@compiled
def spanned(base, taus, size, start, width, factors, out):  # type: ignore[no-untyped-def]
    """c₀·base + Σ cᵢ·τᵢ with the factors of the entry's row.

    factors  (rows, 1 + n); entry `start + i` of the tensor is in row (start + i) // width
    """
    i = 0
    while i < size:
        row = (start + i) // width
        stop = min(size, (row + 1) * width - start)
        c = factors[row, 0]
        for j in range(i, stop):
            out[j] = c * base[j]
        for v in range(taus.shape[0]):
            c = factors[row, v + 1]
            tau = taus[v]
            for j in range(i, stop):
                out[j] += c * tau[j]
        i = stop


@compiled
def spanned_by_column(base, taus, size, start, width, factors, out):  # type: ignore[no-untyped-def]
    """The same with the factors of the entry's column. factors (width, 1 + n)"""
    for i in range(size):
        column = (start + i) % width
        out[i] = factors[column, 0] * base[i]
        for v in range(taus.shape[0]):
            out[i] += factors[column, v + 1] * taus[v, i]


def _product_sum(left, right):  # type: ignore[no-untyped-def]
    total = F64(0)
    for i in range(left.size):
        total += F64(left[i]) * F64(right[i])
    return total


dot = compiled(_product_sum, fastmath={"reassoc"})  # sums in vector registers


@compiled
def inner_products(rows, start, width, first, out):  # type: ignore[no-untyped-def]
    """Adds the inner products of k arrays to those of the tensor's rows that the piece is in.

    rows   (k, size) float32
    first  the row of the tensor's that out[0] stands for
    out    (rows of the piece, k, k) float64
    """
    size = rows.shape[1]
    i = 0
    while i < size:
        row = (start + i) // width
        stop = min(size, (row + 1) * width - start)
        for a in range(rows.shape[0]):
            for b in range(a + 1):
                found = dot(rows[a, i:stop], rows[b, i:stop])
                out[row - first, a, b] += found
                if a != b:
                    out[row - first, b, a] += found
        i = stop


@compiled
def column_products(rows, out):  # type: ignore[no-untyped-def]
    """Adds the inner products of k arrays over each column. rows (k, height, width) float32, out (width, k, k) float64."""
    for a in range(rows.shape[0]):
        for b in range(rows.shape[0]):
            for i in range(rows.shape[1]):
                for j in range(rows.shape[2]):
                    out[j, a, b] += F64(rows[a, i, j]) * F64(rows[b, i, j])


@compiled
def keep_random(tau, start, key, bound, factor):  # type: ignore[no-untyped-def]
    """Keeps an entry, times `factor`, where its random 32 bits are below `bound` ≤ 2³²; the others become 0."""
    for i in range(tau.size):
        kept = (mixed(key, U64(start + i)) >> U64(32)) < bound
        tau[i] = tau[i] * factor if kept else F32(0)


@compiled
def keep_by_rank(tau, start, key, ordered, density, epsilon, rescale):  # type: ignore[no-untyped-def]
    """Keeps entries of whole rows with a probability that grows with the rank of their magnitude in the row.

    ordered  (rows, width) float32, the row's magnitudes, growing
    The middle of equal magnitudes' ranks r of m gives the probability density + ε·((r + ½)/m − ½).
    """
    width = ordered.shape[1]
    for row in range(ordered.shape[0]):
        known = ordered[row]
        for j in range(width):
            i = row * width + j
            m = abs(tau[i])
            rank = (numpy.searchsorted(known, m, side="left") + numpy.searchsorted(known, m, side="right")) * 0.5
            kept = density + epsilon * (rank / width - 0.5)
            drawn = F64(mixed(key, U64(start + i)) >> U64(32)) * (1.0 / 4294967296.0)
            factor = F32(1.0 / kept) if rescale else F32(1)
            tau[i] = tau[i] * factor if drawn < kept else F32(0)


@compiled
def variances(taus, size, coefficients, out):  # type: ignore[no-untyped-def]
    """The variance of α·τ over the vectors, entry by entry, divided by n."""
    n = taus.shape[0]
    for i in range(size):
        mean = F32(0)
        for v in range(n):
            mean += coefficients[v] * taus[v, i]
        mean /= F32(n)
        total = F32(0)
        for v in range(n):
            away = coefficients[v] * taus[v, i] - mean
            total += away * away
        out[i] = total / F32(n)


@compiled
def erase_below(taus, size, found, low):  # type: ignore[no-untyped-def]
    """Entries of all vectors become 0 where `found` is below `low`."""
    for v in range(taus.shape[0]):
        for i in range(size):
            if found[i] < low:
                taus[v, i] = F32(0)


@compiled
def oppositions(taus, size, coefficients, both, against):  # type: ignore[no-untyped-def]
    """Counts, for each pair of vectors, entries that both move, and those that they pull in opposite directions. (n, n) int64, added to."""
    n = taus.shape[0]
    for a in range(n):
        for b in range(a + 1):
            flip = coefficients[a] * coefficients[b] < 0
            moved = opposed = 0
            for i in range(size):
                x, y = taus[a, i], taus[b, i]
                moved += x != 0 and y != 0
                opposed += x != 0 and y != 0 and ((x > 0) != (y > 0)) != flip
            both[a, b] += moved
            against[a, b] += opposed
            if a != b:
                both[b, a] += moved
                against[b, a] += opposed


@compiled
def decisions(taus, size, coefficients, lows, highs, joint, kept, decided):  # type: ignore[no-untyped-def]
    """Counts entries that each vector keeps, (n,) int64; and those that anybody keeps, and that are kept with both signs, (2,) int64."""
    up, down = numpy.zeros(size, numpy.bool_), numpy.zeros(size, numpy.bool_)
    for v in range(taus.shape[0]):
        a, low, high = coefficients[v], lows[v], highs[v]
        own = 0
        for i in range(size):
            w = a * taus[v, i]
            m = abs(w) if joint else abs(taus[v, i])
            keeps = m >= low and m <= high and w != 0
            own += keeps
            up[i] |= keeps and w > 0
            down[i] |= keeps and w < 0
        kept[v] += own
    for i in range(size):
        decided[0] += up[i] or down[i]
        decided[1] += up[i] and down[i]
