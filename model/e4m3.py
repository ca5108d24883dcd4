"""Rows quantized to e4m3: codes of one byte and a scale for each row, a power of two.

Codes times scale is exact in bf16, so that a device without FP8 units computes with the very values that FP8
units multiply, and a row that was quantized for the network is not rounded a second time for its product.
What it costs is measured in docs/how-to/fp8.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# R rows, D elements of each

E4M3 = torch.float8_e4m3fn
# E4M3's largest number is 448 = 1.75 · 2^8. Added to the bits of a float, this carries into the exponent
# exactly if the mantissa is above 1.75.
_ABOVE_175 = 0x1FFFFF
_EXPONENT_OF_448 = 8
SCALE_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A matrix, or one for each expert, as codes (e4m3) times scales (fp32, of size 1 along the dim that is
    summed over)."""

    codes: Tensor
    scales: Tensor
    dtype: torch.dtype  # of what was quantized

    @property
    def transposed(self) -> Quantized:
        return Quantized(codes=self.codes.mT, scales=self.scales.mT, dtype=self.dtype)

    @cached_property
    def values(self) -> Tensor:
        """Codes times scales in the dtype of what was quantized, exact."""
        return _decode(self.codes, self.dtype).mul_(self.scales.to(self.dtype))


def quantize(x: Tensor, dim: int = -1, largest: Tensor | None = None) -> Quantized:
    """`largest`: `largest_of(x, dim)`, or that of all parts of a split tensor."""
    scales = scales_of(largest_of(x, dim) if largest is None else largest)
    # A power of two changes no bit of the mantissa, so that bf16 needs no copy in fp32.
    codes = (x * scales.reciprocal().to(x.dtype)).to(E4M3)
    return Quantized(codes=codes, scales=scales, dtype=x.dtype)


def largest_of(x: Tensor, dim: int = -1) -> Tensor:
    """The largest magnitude along `dim`, fp32, of size 1 there; infinite where a value is not finite."""
    # A nan would not survive a MAX all-reduce on gloo.
    return x.abs().amax(dim, keepdim=True).float().nan_to_num_(nan=torch.inf, posinf=torch.inf)


def scales_of(largest: Tensor) -> Tensor:
    """The smallest power of two that brings `largest` to 448 or below; never 0, nor below 2^-126.

    Infinite where `largest` is: the whole row then decodes to nan, and the step is skipped as in bf16.
    """
    exponents = ((largest.view(torch.int32) + _ABOVE_175) >> 23) - _EXPONENT_OF_448
    scales = (exponents.clamp_(min=1) << 23).view(torch.float32)
    return scales.masked_fill_(largest.isinf(), torch.inf)


def pack_rows(x: Tensor) -> Tensor:
    """Rows along the last dim as bytes for the network, uint8 [..., D + 4]: codes, then the row's scale."""
    rows = quantize(x)
    return torch.cat([rows.codes.view(torch.uint8), rows.scales.view(torch.uint8)], -1)


def unpack_rows(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """[..., D] from `pack_rows`."""
    codes, scales = packed.split([packed.shape[-1] - SCALE_BYTES, SCALE_BYTES], -1)
    # Copies: a view as fp32 must begin at a multiple of 4 bytes.
    codes, scales = (part.clone(memory_format=torch.contiguous_format) for part in (codes, scales))
    return Quantized(codes=codes.view(E4M3), scales=scales.view(torch.float32), dtype=dtype).values


def _decode(codes: Tensor, dtype: torch.dtype) -> Tensor:
    if codes.is_cuda:
        return codes.to(dtype)
    # torch 2.13's CPU conversion from e4m3 takes six times as long as looking the codes up (3.1 ms and 0.5 ms
    # for 2^20 of them, 2026-11-30).
    table = torch.arange(256, dtype=torch.uint8).view(E4M3).to(dtype)
    in_memory = codes if codes.is_contiguous() else codes.mT  # transposed at most: read as it lies
    found = table.index_select(0, in_memory.reshape(-1).view(torch.uint8).int()).view(in_memory.shape)
    return found if codes.is_contiguous() else found.mT
