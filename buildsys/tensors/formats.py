"""Floating formats as bits: 16-bit numbers to float32 and back, packed vectors to float32. Compiled loops over plain arrays, no torch.

Every loop is one that a compiler turns into vector instructions; none allocates. Rounding is to nearest, ties to even.
"""

from __future__ import annotations

import numpy

from buildsys.tensors.machine_code import compiled

U32, F32 = numpy.uint32, numpy.float32
_HALF_SCALE = F32(2.0**112)  # between the exponents of float16 and float32


@compiled
def decode_bfloat16(raw, out):  # type: ignore[no-untyped-def]
    """raw (n,) uint16 -> out (n,) uint32, the bits of the float32."""
    for i in range(raw.size):
        out[i] = U32(raw[i]) << U32(16)


@compiled
def decode_float16(raw, bits, out):  # type: ignore[no-untyped-def]
    """raw (n,) uint16 -> out (n,) float32, whose bits are `bits`; subnormal numbers come out exact."""
    for i in range(raw.size):
        bits[i] = (U32(raw[i]) & U32(0x7FFF)) << U32(13)
    for i in range(raw.size):
        out[i] = out[i] * _HALF_SCALE
    for i in range(raw.size):
        bits[i] = bits[i] | ((U32(raw[i]) & U32(0x8000)) << U32(16))


@compiled
def round_to_bfloat16(bits):  # type: ignore[no-untyped-def]
    """The bits of float32 numbers, rounded in place to the nearest that bfloat16 has."""
    for i in range(bits.size):
        u = bits[i]
        bits[i] = (u + U32(0x7FFF) + ((u >> U32(16)) & U32(1))) & U32(0xFFFF0000)


@compiled
def encode_bfloat16(bits, out):  # type: ignore[no-untyped-def]
    """bits (n,) uint32 of float32 -> out (n,) uint16. Returns a number with all exponent bits set where one came out infinite."""
    worst = U32(0)
    for i in range(bits.size):
        u = bits[i]
        found = (u + U32(0x7FFF) + ((u >> U32(16)) & U32(1))) >> U32(16)
        out[i] = found
        worst = max(worst, found & U32(0x7F80))
    return worst


@compiled
def encode_float16(bits, out):  # type: ignore[no-untyped-def]
    """bits (n,) uint32 of float32 -> out (n,) uint16; beyond 65504 infinite. Returns as `encode_bfloat16`, for float16."""
    worst = U32(0)
    for i in range(bits.size):
        u = bits[i]
        sign = (u >> U32(16)) & U32(0x8000)
        a = u & U32(0x7FFFFFFF)
        normal = (a - U32(0x38000000) + U32(0xFFF) + ((a >> U32(13)) & U32(1))) >> U32(13)
        shift = U32(126) - (a >> U32(23))  # of a number below 2**-14: how far its mantissa moves
        shift = U32(25) if shift > U32(25) else shift  # nothing is left of it either way
        mantissa = (a & U32(0x7FFFFF)) | U32(0x800000)
        kept = mantissa >> shift
        rest = mantissa & ((U32(1) << shift) - U32(1))
        half = U32(1) << (shift - U32(1))
        small = kept + (U32(1) if rest > half or (rest == half and (kept & U32(1))) else U32(0))
        found = small if a < U32(0x38800000) else normal
        found = U32(0x7C00) if a >= U32(0x477FF000) else found
        out[i] = sign | found
        worst = max(worst, found & U32(0x7C00))
    return worst


@compiled
def worst_exponent(bits):  # type: ignore[no-untyped-def]
    """The largest exponent field of float32 numbers."""
    worst = U32(0)
    for i in range(bits.size):
        worst = max(worst, bits[i] & U32(0x7F800000))
    return worst


@compiled
def subtract(out, base):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = out[i] - base[i]


@compiled
def add(base, delta, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = base[i] + delta[i]


@compiled
def difference_bfloat16(raw, base, rounded, bits, out):  # type: ignore[no-untyped-def]
    """raw (n,) uint16 of bfloat16, less base (n,) float32 -> out (n,) float32, whose bits are `bits`; rounded to bfloat16 where asked.

    One call for three loops: between two calls, two threads wait for one lock.
    """
    decode_bfloat16(raw, bits)
    subtract(out, base)
    if rounded:
        round_to_bfloat16(bits)


@compiled
def added_bfloat16(base, delta, bits, scratch, out):  # type: ignore[no-untyped-def]
    """base + delta, rounded -> out (n,) uint16, by way of `scratch`, whose bits are `bits`. Returns as `encode_bfloat16`."""
    add(base, delta, scratch)
    return encode_bfloat16(bits, out)


@compiled
def unpack_sparse(mask, values, start, out):  # type: ignore[no-untyped-def]
    """Entries start, start + 1, … of a sparse tensor.

    mask    bit i of byte j: entry 8·j + i is kept
    values  float32, the kept ones of these entries in order
    """
    at = 0
    for i in range(out.size):
        place = start + i
        if (mask[place >> 3] >> (place & 7)) & 1:
            out[i] = values[at]
            at += 1
        else:
            out[i] = F32(0)


@compiled
def count_bits(mask, start, stop):  # type: ignore[no-untyped-def]
    found = 0
    for place in range(start, stop):
        found += (mask[place >> 3] >> (place & 7)) & 1
    return found


@compiled
def unpack_int8(codes, scales, block, start, out):  # type: ignore[no-untyped-def]
    """codes (n,) int8, scales (⌈n / block⌉,) float32: entry i is codes[i] · scales[i // block]."""
    for i in range(out.size):
        place = start + i
        out[i] = F32(codes[place]) * scales[place // block]


@compiled
def unpack_int4(codes, scales, block, start, out):  # type: ignore[no-untyped-def]
    """codes (⌈n / 2⌉,) uint8, the even entry in the low half, 8 standing for 0."""
    for i in range(out.size):
        place = start + i
        code = (codes[place >> 1] >> (4 * (place & 1))) & 15
        out[i] = F32(numpy.int32(code) - 8) * scales[place // block]
