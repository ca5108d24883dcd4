"""Dropless token dispatch and combine: kept routes sorted by expert, exchanged by all-to-all, unpadded.

Rows are moved by gathers only, forward and backward (no index_add), so the result is the same in every run
and a token's does not depend on its neighbors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .collectives import Group, ModelGroups, all_to_all_rows, exchange_counts
from .experts import Experts
from .norm import at_least_fp32
from .recompute import RoutingReplay, recomputed
from .router import Routing

# U tokens of this rank's share, K top-k, R rows to send (kept routes), M rows received, D hidden,
# E experts, L experts of this rank, P ranks of the ep group


@dataclass(frozen=True, kw_only=True)
class RowOrder:
    """The row of each kept route. Rows are in order of expert, then token."""

    route_R: Tensor  # the route (token · K + place) of each row
    row_UK: Tensor  # the row of each route; R for a route that is not kept
    has_gaps: bool  # whether there can be such routes
    counts_E: Tensor


@dataclass(frozen=True, kw_only=True)
class RowExchange:
    """How many rows go to each rank of the ep group and come from it; those that come by expert here."""

    send_rows: list[int]
    receive_rows: list[int]
    received_PL: Tensor  # int64


# Not compiled: sizes depend on the data, and torch 2.13's compiler refuses grouped_mm in fp32.
@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch gives it no types
def dispatch(
    x_UD: Tensor,
    routing: Routing,
    experts: Experts,
    groups: ModelGroups,
    replay: RoutingReplay,
    *,
    recomputes_experts: bool = False,
) -> Tensor:
    """Sum over each token's kept routes of gate · expert(x), [U, D] in the dtype of `x_UD`.

    Experts apply the gates, which are sent to them beside the rows.

    Rows and their exchange are of the layer's first pass, where `replay` has them. `recomputes_experts`:
    backward computes the experts again, from the rows that arrived.
    """
    rows = replay.once(
        "rows", lambda: rows_by_expert(routing.experts_UK, routing.kept_UK, experts.num_experts)
    )
    x_RD = _GatherRows.apply(x_UD, rows)
    gates_R = _GatherGates.apply(routing.gates_UK, rows)
    run_experts = recomputed(experts) if recomputes_experts else experts
    if groups.ep is None:
        y_RD = run_experts(x_RD, rows.counts_E, gates_R)
    else:
        ep = groups.ep
        exchange = replay.once("exchange", lambda: _agree_on_rows(rows.counts_E, ep))
        y_RD = _run_elsewhere(x_RD, gates_R, exchange, ep, run_experts)
    return _SumRows.apply(y_RD, rows)


def rows_by_expert(experts_UK: Tensor, kept_UK: Tensor | None, num_experts: int) -> RowOrder:
    """Sorts the kept routes by expert. Waits for the device once, and only if some may not be kept."""
    expert_N = experts_UK.reshape(-1)
    if kept_UK is not None:
        expert_N = expert_N.masked_fill(~kept_UK.reshape(-1), num_experts)
    route_N = expert_N.argsort(stable=True)
    row_N = torch.empty_like(route_N)
    row_N.scatter_(0, route_N, torch.arange(len(route_N), device=route_N.device))
    counts = expert_N.new_zeros(num_experts + 1).scatter_add_(0, expert_N, torch.ones_like(expert_N))
    counts_E = counts[:num_experts]
    num_rows = len(route_N) if kept_UK is None else int(counts_E.sum())
    return RowOrder(
        route_R=route_N[:num_rows],
        row_UK=row_N.clamp(max=num_rows).view_as(experts_UK),
        has_gaps=kept_UK is not None,
        counts_E=counts_E,
    )


def _agree_on_rows(counts_E: Tensor, ep: Group) -> RowExchange:
    """Waits for the device."""
    sent_PL = counts_E.view(ep.size, -1)
    received_PL = exchange_counts(sent_PL, ep)
    send_rows, receive_rows = torch.stack([sent_PL.sum(1), received_PL.sum(1)]).tolist()
    return RowExchange(send_rows=send_rows, receive_rows=receive_rows, received_PL=received_PL)


def _run_elsewhere(
    x_RD: Tensor,
    gates_R: Tensor,
    exchange: RowExchange,
    ep: Group,
    run_experts: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Every row through its expert, on whatever rank; the order of the rows is kept."""
    received_PL, num_rows = exchange.received_PL, sum(exchange.receive_rows)
    gates_M = all_to_all_rows(gates_R, exchange.send_rows, exchange.receive_rows, ep)
    x_MD = all_to_all_rows(x_RD, exchange.send_rows, exchange.receive_rows, ep)
    num_local = received_PL.shape[1]
    if num_local == 1:
        y_MD = run_experts(x_MD, received_PL.sum(0), gates_M)
    else:
        # Rows arrive ordered by rank, then expert; the grouped GEMM needs them by expert, then rank.
        expert_PL = torch.arange(num_local, device=x_MD.device).repeat(ep.size)
        expert_M = expert_PL.repeat_interleave(received_PL.reshape(-1), output_size=num_rows)
        order_M = expert_M.argsort(stable=True)
        back_M = torch.empty_like(order_M)
        back_M.scatter_(0, order_M, torch.arange(len(order_M), device=order_M.device))
        x_MD, gates_M = (_Permute.apply(each, order_M, back_M) for each in (x_MD, gates_M))
        y_MD = run_experts(x_MD, received_PL.sum(0), gates_M)
        y_MD = _Permute.apply(y_MD, back_M, order_M)
    return all_to_all_rows(y_MD, exchange.receive_rows, exchange.send_rows, ep)


class _Permute(torch.autograd.Function):
    """Rows in another order. `index_select`'s own backward adds by index, which is slower and, on GPUs,
    not the same in every run."""

    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, order_M: Tensor, back_M: Tensor) -> Tensor:
        ctx.save_for_backward(back_M)
        return x_MD.index_select(0, order_M)

    @staticmethod
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor | None, ...]:
        (back_M,) = ctx.saved_tensors
        return grad_MD.index_select(0, back_M), None, None


class _GatherRows(torch.autograd.Function):
    """The row of each kept route is its token's; backward sums a token's rows."""

    @staticmethod
    def forward(ctx: Any, x_UD: Tensor, rows: RowOrder) -> Tensor:
        ctx.rows = rows
        return x_UD.index_select(0, rows.route_R // rows.row_UK.shape[1])

    @staticmethod
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor | None, ...]:
        grad_UKD = _pick(grad_RD, ctx.rows)
        return (grad_UKD.squeeze(1) if grad_UKD.shape[1] == 1 else grad_UKD.sum(1)), None


class _GatherGates(torch.autograd.Function):
    """The gate of each row's route."""

    @staticmethod
    def forward(ctx: Any, gates_UK: Tensor, rows: RowOrder) -> Tensor:
        ctx.rows = rows
        return gates_UK.reshape(-1).index_select(0, rows.route_R)

    @staticmethod
    def backward(ctx: Any, grad_R: Tensor) -> tuple[Tensor | None, ...]:
        return _pick(grad_R[:, None], ctx.rows).squeeze(-1), None


class _SumRows(torch.autograd.Function):
    """A token's rows summed, in fp32 at least; keeps none of them."""

    @staticmethod
    def forward(ctx: Any, y_RD: Tensor, rows: RowOrder) -> Tensor:
        ctx.rows = rows
        y_UKD = _pick(y_RD, rows)
        if y_UKD.shape[1] == 1:
            return y_UKD.squeeze(1)
        return y_UKD.sum(1, dtype=at_least_fp32(y_RD).dtype).to(y_RD.dtype)

    @staticmethod
    def backward(ctx: Any, grad_UD: Tensor) -> tuple[Tensor | None, ...]:
        rows: RowOrder = ctx.rows
        return grad_UD.index_select(0, rows.route_R // rows.row_UK.shape[1]), None


def _pick(x_RD: Tensor, rows: RowOrder) -> Tensor:
    """[U, K, D]: the row of each route, zeros for one that is not kept."""
    if rows.has_gaps:
        x_RD = torch.cat([x_RD, x_RD.new_zeros(1, x_RD.shape[1])])
    return x_RD.index_select(0, rows.row_UK.reshape(-1)).view(*rows.row_UK.shape, x_RD.shape[1])
