"""Dropless token dispatch and combine: a row for each kept route, sorted by expert, unpadded.

Rows are moved by gathers only, forward and backward (no index_add), so the result is the same in every run
and a token's does not depend on its neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .collectives import ModelGroups
from .expert_exchange import agree_on_rows, run_elsewhere
from .experts import Experts
from .fused import Kernel, Rows
from .norm import at_least_fp32
from .recompute import RoutingReplay, recomputed
from .router import Routing
from .row_copies import inverse, stable_order

# U tokens of this rank's share, K top-k, R rows (kept routes), D hidden, E experts


@dataclass(frozen=True, kw_only=True)
class RowOrder:
    """The row of each kept route on a rank that has all experts. Rows are in order of expert, then token."""

    route_R: Tensor  # the route (token · K + place) of each row
    row_UK: Tensor  # the row of each route; R for a route that is not kept
    has_gaps: bool  # whether there can be such routes
    counts_E: Tensor
    is_fused: bool = False  # sums of a token's rows in one kernel, without a copy of its rows


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
    is_fused: bool = False,
) -> Tensor:
    """Sum over each token's kept routes of gate · expert(x), [U, D] in the dtype of `x_UD`.

    Experts apply the gates, which are sent to them beside the rows.

    Rows and their exchange are of the layer's first pass, where `replay` has them. `recomputes_experts`:
    backward computes the experts again, from the rows that arrived.
    """
    experts_UK, kept_UK, gates_UK = routing.experts_UK, routing.kept_UK, routing.gates_UK
    run_experts = recomputed(experts) if recomputes_experts else experts
    if groups.ep is not None:
        ep = groups.ep
        exchange = replay.once(
            "exchange",
            lambda: agree_on_rows(experts_UK, kept_UK, gates_UK, experts.num_experts, ep, is_fused=is_fused),
        )
        return run_elsewhere(x_UD, gates_UK, exchange, ep, run_experts)
    rows = replay.once(
        "rows", lambda: rows_by_expert(experts_UK, kept_UK, experts.num_experts, is_fused=is_fused)
    )
    y_RD = run_experts(_GatherRows.apply(x_UD, rows), rows.counts_E, _GatherGates.apply(gates_UK, rows))
    return _SumRows.apply(y_RD, rows)


def rows_by_expert(
    experts_UK: Tensor, kept_UK: Tensor | None, num_experts: int, *, is_fused: bool = False
) -> RowOrder:
    """Sorts the kept routes by expert. Waits for the device once, and only if some may not be kept."""
    expert_N = experts_UK.reshape(-1)
    if kept_UK is not None:
        expert_N = expert_N.masked_fill(~kept_UK.reshape(-1), num_experts)
    route_N = stable_order(expert_N)
    counts = expert_N.new_zeros(num_experts + 1).scatter_add_(0, expert_N, torch.ones_like(expert_N))
    counts_E = counts[:num_experts]
    num_rows = len(route_N) if kept_UK is None else int(counts_E.sum())
    return RowOrder(
        route_R=route_N[:num_rows],
        row_UK=inverse(route_N).clamp(max=num_rows).view_as(experts_UK),
        has_gaps=kept_UK is not None,
        counts_E=counts_E,
        is_fused=is_fused,
    )


class _GatherRows(torch.autograd.Function):
    """The row of each kept route is its token's; backward sums a token's rows."""

    @staticmethod
    def forward(ctx: Any, x_UD: Tensor, rows: RowOrder) -> Tensor:
        ctx.rows = rows
        return x_UD.index_select(0, rows.route_R // rows.row_UK.shape[1])

    @staticmethod
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor | None, ...]:
        return _sum(grad_RD, ctx.rows), None


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
        return _sum(y_RD, rows)

    @staticmethod
    def backward(ctx: Any, grad_UD: Tensor) -> tuple[Tensor | None, ...]:
        rows: RowOrder = ctx.rows
        return grad_UD.index_select(0, rows.route_R // rows.row_UK.shape[1]), None


def _sum(x_RD: Tensor, rows: RowOrder) -> Tensor:
    """[U, D]: the sum of each token's rows, in fp32 at least, rounded once."""
    if rows.row_UK.shape[1] == 1:
        return _pick(x_RD, rows).squeeze(1)
    if rows.is_fused:
        total_UD: Tensor = (SUM_KEPT_ROWS if rows.has_gaps else SUM_ROWS)(x_RD, rows.row_UK)
        return total_UD
    return _pick(x_RD, rows).sum(1, dtype=at_least_fp32(x_RD).dtype).to(x_RD.dtype)


def _pick(x_RD: Tensor, rows: RowOrder) -> Tensor:
    """[U, K, D]: the row of each route, zeros for one that is not kept."""
    if rows.has_gaps:
        x_RD = torch.cat([x_RD, x_RD.new_zeros(1, x_RD.shape[1])])
    return x_RD.index_select(0, rows.row_UK.reshape(-1)).view(*rows.row_UK.shape, x_RD.shape[1])


def _sum_rows(x_RD: Tensor, row_UK: Tensor) -> Tensor:
    return at_least_fp32(x_RD[row_UK]).sum(1).to(x_RD.dtype)


def _sum_kept_rows(x_RD: Tensor, row_UK: Tensor) -> Tensor:
    is_kept_UK = row_UK < len(x_RD)
    wide_UKD = at_least_fp32(x_RD[row_UK.masked_fill(~is_kept_UK, 0)])
    return wide_UKD.masked_fill(~is_kept_UK[:, :, None], 0.0).sum(1).to(x_RD.dtype)


SUM_ROWS = Kernel("permutation", _sum_rows, [Rows(1), Rows()])
SUM_KEPT_ROWS = Kernel("permutation with drops", _sum_kept_rows, [Rows(1), Rows()])
