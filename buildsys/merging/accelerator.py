"""Where tiles are worked on when that is a GPU: the names of `processor` as operations on its tensors, the same sums in the same order."""

from __future__ import annotations

from typing import Any

import numpy
import torch

from buildsys.merging import processor
from buildsys.tensors import arrays
from buildsys.tensors.arrays import Array
from buildsys.tensors.vectors import Difference, Piece, Stored, Tau

_RAW = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

UPPER, LOWER = processor.UPPER, processor.LOWER


class Accelerator:
    """`processor`, on a device. Tensors stay there; what comes in as an array is moved."""

    TILE = 1 << 24  # entries: enough to keep an accelerator busy
    TILES = 1

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def buffer(self, own: dict[str, Any], name: str, shape: tuple[int, ...]) -> torch.Tensor:
        del own, name  # torch's allocator keeps and reuses its blocks
        return torch.empty(shape, device=self.device)

    # reading and writing

    def decode(self, dtype: str, numbers: Array, out: torch.Tensor) -> None:
        out.copy_(self._moved(dtype, numbers))

    def read(self, tau: Tau, piece: Piece, out: torch.Tensor) -> None:
        """Entries of τ; raw bytes are moved where they can be, and widened on the device."""
        if isinstance(tau, Stored) and tau.entry.dtype in _RAW:
            out.copy_(self._moved(tau.entry.dtype, tau.raw[piece.start : piece.stop]))
        elif isinstance(tau, Difference) and tau.rows is None and tau.base.dtype in _RAW:
            base, model = tau.raw
            same = piece.base_entry == tau.base and piece.base32 is not None
            below = piece.base32 if same else self._moved(tau.base.dtype, base[piece.start : piece.stop]).float()
            torch.sub(self._moved(tau.model.dtype, model[piece.start : piece.stop]).float(), below, out=out)  # type: ignore[arg-type]
            if tau.short:
                out.copy_(out.bfloat16())
        else:
            whole = numpy.empty(piece.stop - piece.start, numpy.float32)
            tau.read(Piece(piece.start, piece.stop), whole)
            out.copy_(torch.from_numpy(whole))

    def _moved(self, dtype: str, numbers: Array) -> torch.Tensor:
        plain = numpy.array(numbers)  # a mapped file is not writable, which torch warns of
        if dtype in ("BF16", "F16"):
            return torch.from_numpy(plain.view(numpy.int16)).to(self.device).view(_RAW[dtype])
        return torch.from_numpy(plain).to(self.device)

    def added(self, dtype: str, base: Array, base32: torch.Tensor, delta: torch.Tensor, scratch: torch.Tensor, out: Array) -> bool:
        if dtype == "F64":
            return arrays.added(dtype, base, numpy.empty(0), delta.cpu().numpy(), numpy.empty(0), out)
        found = torch.add(base32, delta, out=scratch).to(_RAW[dtype])
        finite = bool(torch.isfinite(found).all())
        out[:] = found.view(torch.int16).cpu().numpy().view(numpy.uint16) if dtype != "F32" else found.cpu().numpy()
        return finite

    def whole(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(numpy.array(array)).to(self.device)

    def host(self, tensor: torch.Tensor) -> Array:
        found: Array = tensor.cpu().numpy()
        return found

    # counting

    def magnitudes(self, numbers: torch.Tensor) -> Array:
        """(groups, n) sorted, as an array."""
        found: Array = numbers.abs().sort(1).values.cpu().numpy()
        return found

    def count_each_upper(self, numbers: torch.Tensor, size: int, counts: Array) -> None:
        for group in range(numbers.shape[0]):
            upper = (self._bits(numbers[group, :size]) >> 16) & (UPPER - 1)
            counts[group, 0] += torch.bincount(upper, minlength=UPPER).cpu().numpy().astype(numpy.uint32)

    def count_lower(self, numbers: torch.Tensor, upper: int, found: Array) -> None:
        bits = self._bits(numbers)
        inside = bits[((bits >> 16) & (UPPER - 1)) == int(upper)] & (LOWER - 1)
        found += torch.bincount(inside, minlength=LOWER).cpu().numpy().astype(numpy.uint32)

    def _bits(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers.contiguous().view(torch.int32).long()

    # entries

    def weigh(self, tau: torch.Tensor, coefficient: float, out: torch.Tensor) -> None:
        torch.mul(tau, float(coefficient), out=out)

    def scale(self, out: torch.Tensor, factor: float) -> None:
        out.mul_(float(factor))

    def divide(self, out: torch.Tensor, divisor: float) -> None:
        out.div_(float(divisor))

    def dot(self, left: torch.Tensor, right: torch.Tensor) -> float:
        return float(left.double() @ right.double())

    def _kept(self, tau: torch.Tensor, a: float, low: float, high: float, joint: bool) -> torch.Tensor:
        weighted = tau * float(a)
        m = (weighted if joint else tau).abs()
        return torch.where((m >= float(low)) & (m <= float(high)), weighted, 0.0)

    def summed(self, taus: Any, size: int, coefficients: Array, lows: Array, highs: Array, joint: bool, out: torch.Tensor) -> None:
        out.zero_()
        for tau, a, low, high in zip(taus, coefficients, lows, highs, strict=True):
            out += self._kept(tau[:size], a, low, high, joint)

    def elected(
        self, taus: Any, size: int, coefficients: Array, lows: Array, highs: Array, joint: bool, by_count: bool, divide: int,
        shares: Array, out: torch.Tensor,
    ) -> None:  # fmt: skip
        above, below, above_votes, below_votes, above_weight, below_weight, above_shared, below_shared = torch.zeros(
            8, size, device=self.device
        )
        for tau, a, low, high, share in zip(taus, coefficients, lows, highs, shares, strict=True):
            w = self._kept(tau[:size], a, low, high, joint)
            up, down = w > 0, w < 0
            above += torch.where(up, w, 0.0)
            below += torch.where(down, w, 0.0)
            weight = {0: 0.0, 1: 1.0, 2: abs(float(a)), 3: float(share)}[divide]
            above_weight += up * weight
            below_weight += down * weight
            if by_count:
                above_votes += up
                below_votes += down
            if divide == 3:
                above_shared += torch.where(up, w * weight, 0.0)
                below_shared += torch.where(down, w * weight, 0.0)
        lead = above_votes - below_votes if by_count else above + below
        first, second = (above_shared, below_shared) if divide == 3 else (above, below)
        total = torch.where(lead > 0, first, second)
        weight_sum = torch.where(lead > 0, above_weight, below_weight)
        divisor = torch.where(weight_sum > 0, weight_sum, 1.0) if divide else torch.ones_like(total)
        out.copy_(torch.where(lead != 0, total / divisor, 0.0))

    def spanned(self, base: torch.Tensor, taus: Any, size: int, start: int, width: int, factors: Array, out: torch.Tensor) -> None:
        part = (torch.arange(start, start + size, device=self.device) // width).clamp_max(len(factors) - 1)
        self._spanned(base, taus, size, part, factors, out)

    def spanned_by_column(
        self, base: torch.Tensor, taus: Any, size: int, start: int, width: int, factors: Array, out: torch.Tensor
    ) -> None:
        self._spanned(base, taus, size, torch.arange(start, start + size, device=self.device) % width, factors, out)

    def _spanned(self, base: torch.Tensor, taus: Any, size: int, part: torch.Tensor, factors: Array, out: torch.Tensor) -> None:
        known = torch.from_numpy(factors).to(self.device)
        torch.mul(base, known[part, 0], out=out)
        for position, tau in enumerate(taus, 1):
            out += known[part, position] * tau[:size]

    def inner_products(self, rows: torch.Tensor, start: int, width: int, first: int, out: Array) -> None:
        part = torch.arange(start, start + rows.shape[1], device=self.device) // width - first
        for a in range(rows.shape[0]):
            for b in range(a + 1):
                found = torch.zeros(len(out), dtype=torch.float64, device=self.device)
                found.index_add_(0, part, rows[a].double() * rows[b].double())
                out[:, a, b] += found.cpu().numpy()
                if a != b:
                    out[:, b, a] += found.cpu().numpy()

    def column_products(self, rows: torch.Tensor, out: Array) -> None:
        wide = rows.double()
        out += torch.einsum("aij,bij->jab", wide, wide).cpu().numpy()

    def variances(self, taus: Any, size: int, coefficients: Array, out: torch.Tensor) -> None:
        n = len(coefficients)
        mean = torch.zeros(size, device=self.device)
        for tau, a in zip(taus, coefficients, strict=True):
            mean += tau[:size] * float(a)
        mean /= n
        out.zero_()
        for tau, a in zip(taus, coefficients, strict=True):
            away = tau[:size] * float(a) - mean
            out += away * away
        out.div_(n)

    def erase_below(self, taus: torch.Tensor, size: int, found: torch.Tensor, low: float) -> None:
        taus[:, :size].masked_fill_((found < float(low)).unsqueeze(0), 0.0)

    # masks

    def _drawn(self, key: numpy.uint64, start: int, size: int) -> torch.Tensor:
        """32 random bits for each entry: SplitMix64 in the wrapping arithmetic of int64."""
        place = torch.arange(start + 1, start + size + 1, device=self.device)
        z = place * _signed(0x9E3779B97F4A7C15) + _signed(int(key))
        z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
        z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
        return _shifted(z ^ _shifted(z, 31), 32)

    def keep_random(self, tau: torch.Tensor, start: int, key: numpy.uint64, bound: int, factor: float) -> None:
        kept = self._drawn(key, start, tau.numel()) < int(bound)
        tau.copy_(torch.where(kept, tau * float(factor), 0.0))

    def sorted_rows(self, tau: torch.Tensor, width: int) -> torch.Tensor:
        return tau.abs().reshape(-1, width).sort(1).values

    def keep_by_rank(
        self, tau: torch.Tensor, start: int, key: numpy.uint64, ordered: torch.Tensor, density: float, epsilon: float, rescale: bool
    ) -> None:
        magnitudes = tau.abs().reshape(ordered.shape)
        left, right = torch.searchsorted(ordered, magnitudes), torch.searchsorted(ordered, magnitudes, right=True)
        kept = density + epsilon * ((left + right).double() * 0.5 / ordered.shape[1] - 0.5)
        drawn = self._drawn(key, start, tau.numel()).double() * (1.0 / 4294967296.0)
        factor = (1.0 / kept).float() if rescale else torch.ones_like(magnitudes)
        tau.copy_(torch.where(drawn < kept.reshape(-1), tau * factor.reshape(-1), 0.0))


def _signed(value: int) -> int:
    """An unsigned 64-bit number as the signed one of the same bits."""
    return value - (1 << 64) if value >> 63 else value


def _shifted(z: torch.Tensor, by: int) -> torch.Tensor:
    """A logical shift to the right."""
    return (z >> by) & ((1 << (64 - by)) - 1)
