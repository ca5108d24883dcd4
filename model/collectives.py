"""Collectives of tensor and expert parallelism as autograd functions, and the groups they run in.

Every collective takes its group as an argument and does nothing for None, which means size 1. Forward and
backward run inside `group.clock.phase(...)`, so that waits are counted where they happen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import hierarchical
from .e4m3 import pack_rows, unpack_rows
from .observers import NO_CLOCK, NO_LOG, Clock, ExchangeLog

# R rows on this rank, D anything behind them


@dataclass(frozen=True, kw_only=True)
class Group:
    """A process group, this rank's place in it, the clock that its collectives run under, and their log.

    `ranks` are global, in the order of the group. `sends_float8`: rows of vectors go to other ranks as e4m3
    with a scale each. `host_groups`: rows of an all-to-all take two steps.
    """

    process_group: dist.ProcessGroup | None  # None only where no collective is made, as on meta devices
    ranks: tuple[int, ...]
    rank: int
    size: int
    clock: Clock = field(default=NO_CLOCK, repr=False, compare=False)
    log: ExchangeLog = field(default=NO_LOG, repr=False, compare=False)
    sends_float8: bool = False
    host_groups: hierarchical.HostGroups | None = None


@dataclass(frozen=True, kw_only=True)
class ModelGroups:
    """The tensor and expert parallel groups of a model's layers. None means size 1."""

    tp: Group | None = None
    ep: Group | None = None


@dataclass(frozen=True)
class Shard:
    """The slice of a global tensor that a rank holds: it starts at `offsets` and has the local shape.

    Its last `padding` rows belong to no global row: zeros that are never read.
    """

    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    padding: int = 0

    def real(self, local: Tensor) -> Tensor:
        """The local tensor, or one like it, without its padding."""
        return local[: len(local) - self.padding] if self.padding else local


def share_of(size: int, group: Group | None) -> tuple[int, int]:
    """Start and length of this rank's contiguous share of `size` items; shares differ by at most one."""
    if group is None:
        return 0, size
    return _share(size, group.rank, group.size)


def padded_share_of(size: int, group: Group | None) -> tuple[int, int, int]:
    """Start, length and padding to the length of the longest share: 0 or 1."""
    start, length = share_of(size, group)
    return start, length, 0 if group is None else _share(size, 0, group.size)[1] - length


def _share(size: int, rank: int, parts: int) -> tuple[int, int]:
    length, longer = divmod(size, parts)
    return rank * length + min(rank, longer), length + (rank < longer)


def copy_to_tp(x: Tensor, group: Group | None) -> Tensor:
    """Enters a region split over `group`: identity forward, all-reduce of the gradients backward."""
    return x if group is None else _CopyToTp.apply(x, group)


def reduce_from_tp(x: Tensor, group: Group | None) -> Tensor:
    """Leaves a region split over `group`: all-reduce of the partial results forward, identity backward."""
    return x if group is None else _ReduceFromTp.apply(x, group)


def split_to_tp(x: Tensor, group: Group | None, dim: int = 0) -> Tensor:
    """This rank's share of a replicated tensor; backward all-gathers the shares of the gradient."""
    return x if group is None else _SplitToTp.apply(x, group, dim)


def gather_from_tp(x: Tensor, size: int, group: Group | None, dim: int = 0) -> Tensor:
    """All-gather of a tensor split over `group` (`size` along `dim` in all); backward slices the gradient."""
    return x if group is None else _GatherFromTp.apply(x, size, group, dim)


def sum_gradients(weight: Tensor, group: Group | None) -> Tensor:
    """A replicated weight that each rank of `group` applies to its share of tokens; gradients are summed."""
    return copy_to_tp(weight, group)


def all_to_all_rows(
    x_RD: Tensor, send_rows: Sequence[int], receive_rows: Sequence[int], group: Group | None
) -> Tensor:
    """Sends the first `send_rows[0]` rows to the group's first rank, and so on; backward sends them back."""
    if group is None:
        return x_RD
    return _AllToAllRows.apply(x_RD, tuple(send_rows), tuple(receive_rows), group)


def exchange_counts(counts: Tensor, group: Group | None) -> Tensor:
    """Row i of [group size, n] int64 goes to the group's rank i; row i of the result came from it."""
    if group is None:
        return counts
    received = torch.empty_like(counts)
    group.log.gives(counts)
    with group.clock.phase("all_to_all"):
        dist.all_to_all_single(received, counts.contiguous(), group=group.process_group)
    group.log.gets(received)
    return received


def exchange_routes(x_R: Tensor, send: Sequence[int], receive: Sequence[int], group: Group) -> Tensor:
    """What belongs to each route (R of them along dim 0) to where the route is, or back. No gradient.

    As it is and flat also where rows are sent as e4m3 or by way of other ranks: it is small.
    """
    return _exchange_rows(x_R, tuple(send), tuple(receive), replace(group, sends_float8=False), None)


def all_gather_shares(x: Tensor, size: int, group: Group, dim: int = 0) -> Tensor:
    """The shares of every rank, concatenated along `dim` in rank order. No gradient.

    Shares that are one short are padded for the exchange: gloo takes equal sizes only.
    """
    rows = x.movedim(dim, 0).contiguous()
    longest = _share(size, 0, group.size)[1]
    if rows.shape[0] < longest:
        rows = torch.cat([rows, rows.new_zeros(longest - rows.shape[0], *rows.shape[1:])])
    gathered = all_gather(rows, group).flatten(0, 1)
    if size != group.size * longest:
        lengths = [_share(size, rank, group.size)[1] for rank in range(group.size)]
        parts = gathered.split(longest)
        gathered = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
    # Contiguous, or later ops keep the gathered order of dims and each GEMM copies its input.
    return gathered.movedim(0, dim).contiguous()


def all_gather(x: Tensor, group: Group) -> Tensor:
    """[group size, …]: the tensors of all ranks, which have one shape. No gradient."""
    gathered = x.new_empty(group.size * x.shape[0], *x.shape[1:])
    # torch 2.13 gave the call a new name and warns about the old one, which torch 2.11 still needs.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    group.log.gives(x)
    with group.clock.phase("tensor_parallel"):
        gather(gathered, x.contiguous(), group=group.process_group)
    group.log.gets(gathered)
    return gathered.unflatten(0, (group.size, x.shape[0]))


def max_over_tp(x: Tensor, group: Group) -> Tensor:
    """The element-wise maximum over the group's ranks. No gradient; gloo loses a nan."""
    largest = x.clone(memory_format=torch.contiguous_format)
    group.log.gives(largest)
    with group.clock.phase("tensor_parallel"):
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group.process_group)
    group.log.gets(largest)
    return largest


def _all_reduce(x: Tensor, group: Group) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    group.log.gives(total)
    with group.clock.phase("tensor_parallel"):
        dist.all_reduce(total, group=group.process_group)
    group.log.gets(total)
    return total


class _CopyToTp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _all_reduce(grad, ctx.group), None


class _ReduceFromTp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return _all_reduce(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None


class _SplitToTp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim, ctx.size = group, dim, x.shape[dim]
        return x.narrow(dim, *share_of(x.shape[dim], group)).clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return all_gather_shares(grad, ctx.size, ctx.group, ctx.dim), None, None


class _GatherFromTp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, group: Group, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return all_gather_shares(x, size, group, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        share = grad.narrow(ctx.dim, *share_of(grad.shape[ctx.dim], ctx.group))
        return share.contiguous(), None, None, None


class _AllToAllRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_RD: Tensor,
        send_rows: tuple[int, ...],
        receive_rows: tuple[int, ...],
        group: Group,
    ) -> Tensor:
        ctx.send_rows, ctx.receive_rows, ctx.group = send_rows, receive_rows, group
        ctx.route = None
        if group.host_groups is not None:
            with group.clock.phase("all_to_all"):
                ctx.route = hierarchical.find_route(send_rows, receive_rows, group.host_groups, x_RD.device)
        return _exchange_rows(x_RD, send_rows, receive_rows, group, ctx.route)

    @staticmethod
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor | None, ...]:
        group, route = ctx.group, ctx.route
        sent = _exchange_rows(grad_RD, ctx.receive_rows, ctx.send_rows, group, route, is_back=True)
        return sent, None, None, None


def _exchange_rows(
    x_RD: Tensor,
    send_rows: tuple[int, ...],
    receive_rows: tuple[int, ...],
    group: Group,
    route: hierarchical.Route | None,
    *,
    is_back: bool = False,
) -> Tensor:
    """`route`: of the way there, where rows take two steps; `is_back`: they take it back."""
    if group.sends_float8 and x_RD.dim() == 2:
        plain = replace(group, sends_float8=False)
        packed = _exchange_rows(pack_rows(x_RD), send_rows, receive_rows, plain, route, is_back=is_back)
        return unpack_rows(packed, x_RD.dtype)
    group.log.gives(x_RD)
    with group.clock.phase("all_to_all"):
        if route is not None:
            assert group.host_groups is not None
            exchange = hierarchical.exchange_back if is_back else hierarchical.exchange
            received = exchange(x_RD, route, group.host_groups)
        else:
            received = x_RD.new_empty(sum(receive_rows), *x_RD.shape[1:])
            dist.all_to_all_single(
                received, x_RD.contiguous(), list(receive_rows), list(send_rows), group=group.process_group
            )
    group.log.gets(received)
    return received
