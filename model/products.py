"""Products of rows with a weight: one weight for all rows, or one for the rows of each expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# R rows (in order of their expert, if there are experts), K contracted, N outputs, L experts of this rank


@dataclass(frozen=True, kw_only=True)
class ExpertRows:
    """Which rows are whose: the first `counts_L[0]` are the first expert's, and so on."""

    counts_L: Tensor
    ends_L: Tensor  # int32, where each one's end

    @classmethod
    def of(cls, counts_L: Tensor) -> ExpertRows:
        return cls(counts_L=counts_L, ends_L=counts_L.cumsum(0).to(torch.int32))


def product(x_RK: Tensor, weight: Tensor, rows: ExpertRows | None = None) -> Tensor:
    """x Wᵀ, [R, N]. `weight`: [N, K], or [L, N, K] with `rows`."""
    if rows is None:
        return functional.linear(x_RK, weight)
    if can_group(weight):
        return functional.grouped_mm(x_RK.contiguous(), weight.transpose(1, 2), offs=rows.ends_L)
    parts = x_RK.split(rows.counts_L.tolist())
    return torch.cat([functional.linear(part, w) for part, w in zip(parts, weight.unbind(0), strict=True)])


def weight_gradient(grad_RN: Tensor, x_RK: Tensor, rows: ExpertRows | None = None) -> Tensor:
    """The gradient of `product`'s weight, in its shape."""
    if rows is None:
        return grad_RN.t() @ x_RK
    num_experts = len(rows.counts_L)
    if can_group(x_RK.new_empty(num_experts, grad_RN.shape[1], x_RK.shape[1], device="meta")):
        return functional.grouped_mm(grad_RN.t(), x_RK.contiguous(), offs=rows.ends_L)
    counts = rows.counts_L.tolist()
    parts = zip(grad_RN.split(counts), x_RK.split(counts), strict=True)
    return torch.stack([grad.t() @ x for grad, x in parts])


def can_group(weight_LNK: Tensor) -> bool:
    """Whether `grouped_mm` supports this weight; if not, experts are computed one after the other.

    It refuses fp64 and strides that are not multiples of 16 bytes (torch 2.13, aten/native/GroupedMMUtils.h).
    """
    aligned = all(size * weight_LNK.element_size() % 16 == 0 for size in weight_LNK.shape[1:])
    return aligned and weight_LNK.dtype in (torch.float32, torch.bfloat16, torch.float16)
