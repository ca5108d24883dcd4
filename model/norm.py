"""RMSNorm in fp32 or wider: of vectors, of each head, and of a projection that is split over TP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .collectives import ModelGroups, Shard, copy_to_tp, reduce_from_tp, share_of, sum_gradients
from .linear import mark_tp_sharded


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last dim, computed in fp32 (fp64 stays fp64)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, self.weight, self.eps)


class HeadNorm(RMSNorm):
    """RMSNorm of each head; the weight is replicated, each tp rank normalizes its own heads."""

    def __init__(self, size: int, eps: float, groups: ModelGroups) -> None:
        super().__init__(size, eps)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, sum_gradients(self.weight, self.groups.tp), self.eps)


class ProjectionNorm(nn.Module):
    """RMSNorm over a complete projection, of which this rank holds its share of the heads."""

    def __init__(self, size: int, unit: int, eps: float, groups: ModelGroups) -> None:
        super().__init__()
        start, length = share_of(size // unit, groups.tp)
        self.size, self.eps, self.groups = size, eps, groups
        self.shard = Shard((size,), (start * unit,))
        self.weight = nn.Parameter(torch.ones(length * unit))
        mark_tp_sharded(self.weight, groups)

    def forward(self, x: Tensor) -> Tensor:
        tp = self.groups.tp
        if tp is None:
            return normalize(x, self.weight, self.eps)
        wide = at_least_fp32(x)
        squares = wide.square().sum(-1, keepdim=True)
        # Every rank scales its own heads by the sum over all heads: all-reduce forward and backward.
        total = copy_to_tp(reduce_from_tp(squares, tp), tp)
        return self.weight * (wide * torch.rsqrt(total / self.size + self.eps)).to(x.dtype)

    def shards(self) -> dict[str, Shard]:
        return {"weight": self.shard}


def normalize(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = at_least_fp32(x)
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
