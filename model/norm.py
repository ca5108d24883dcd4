"""RMSNorm in fp32 or wider: of vectors, of each head, and of a projection that is split over TP."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from .collectives import ModelGroups, Shard, copy_to_tp, reduce_from_tp, share_of, sum_gradients
from .fused import FusedModule, Region
from .linear import mark_tp_sharded


class RMSNorm(FusedModule):
    """x / sqrt(mean(x²) + eps) · weight over the last dim, computed in fp32 (fp64 stays fp64)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, self.weight, self.eps, is_fused="norm" in self.fused)


class HeadNorm(RMSNorm):
    """RMSNorm of each head; the weight is replicated, each tp rank normalizes its own heads."""

    def __init__(self, size: int, eps: float, groups: ModelGroups) -> None:
        super().__init__(size, eps)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        weight = sum_gradients(self.weight, self.groups.tp)
        return normalize(x, weight, self.eps, is_fused="norm" in self.fused)


class ProjectionNorm(FusedModule):
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
            return normalize(x, self.weight, self.eps, is_fused="norm" in self.fused)
        is_fused = "norm" in self.fused
        squares = _SQUARES(_rows(x)).view(*x.shape[:-1], 1) if is_fused else _squares(x)
        # Every rank scales its own heads by the sum over all heads: all-reduce forward and backward.
        total = copy_to_tp(reduce_from_tp(squares, tp), tp)
        if is_fused:
            return _scale_region(self.size, self.eps)(_rows(x), total.view(-1, 1), self.weight).view_as(x)
        return _scale(x, total, self.weight, self.size, self.eps)

    def shards(self) -> dict[str, Shard]:
        return {"weight": self.shard}


def normalize(x: Tensor, weight: Tensor, eps: float, *, is_fused: bool = False) -> Tensor:
    if is_fused:
        y: Tensor = norm_region(eps)(_rows(x), weight)
        return y.view_as(x)
    wide = at_least_fp32(x)
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


@lru_cache
def norm_region(eps: float) -> Region:
    """Of rows [N, D] and a weight [D]."""

    def run(x_ND: Tensor, weight_D: Tensor) -> Tensor:
        return normalize(x_ND, weight_D, eps)

    return Region("norm", run, has_rows=(True, False), differentiable=(0, 1))


def at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _squares(x: Tensor) -> Tensor:
    return at_least_fp32(x).square().sum(-1, keepdim=True)


def _scale(x: Tensor, total: Tensor, weight: Tensor, size: int, eps: float) -> Tensor:
    return weight * (at_least_fp32(x) * torch.rsqrt(total / size + eps)).to(x.dtype)


_SQUARES = Region("norm", _squares, has_rows=(True,), differentiable=(0,))


@lru_cache
def _scale_region(size: int, eps: float) -> Region:
    def run(x_ND: Tensor, total_N1: Tensor, weight_D: Tensor) -> Tensor:
        return _scale(x_ND, total_N1, weight_D, size, eps)

    return Region("norm", run, has_rows=(True, True, False), differentiable=(0, 1, 2))
