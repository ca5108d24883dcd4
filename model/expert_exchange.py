"""Exchange of tokens between the ranks of an EP group: one row for each rank, not for each route.

A token with several experts on a rank is sent there once, with a list of its routes; the rank copies it for
each of them and sends the sum of their results back once. Sums are made in fp32: on the experts' rank in the
order of a token's routes, at home in the order of the ranks. What travels is in the dtype of the activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .collectives import Group, all_to_all_rows, exchange_counts, exchange_routes
from .row_copies import RowCopies, copy_rows, inverse, row_copies, stable_order, sum_copies

# U tokens of this rank's share, K top-k, N = U·K routes, P ranks of the ep group, L experts of this rank,
# J most routes of a token to one rank, S rows sent, R routes sent, M rows and Q routes received, D hidden


@dataclass(frozen=True, kw_only=True)
class ExpertExchange:
    """Who sends what to whom, as one rank of the group knows it. Decided once for a layer's tokens.

    Rows are sent in order of rank, then token, and routes beside them in order of rank, token, place.
    """

    route_R: Tensor  # the route (token · K + place) of each route that is sent
    sent: RowCopies  # of tokens, for each rank that has an expert of it
    received: RowCopies | None  # of rows that came, for each route, in order of expert; None: as they came
    gates_Q: Tensor  # of received routes in order of expert, without gradient
    arrival_R: Tensor  # place in that order of each route as it came
    counts_L: Tensor
    send_rows: tuple[int, ...]
    receive_rows: tuple[int, ...]
    send_routes: tuple[int, ...]
    receive_routes: tuple[int, ...]


def run_elsewhere(
    x_UD: Tensor,
    gates_UK: Tensor,
    exchange: ExpertExchange,
    ep: Group,
    run_experts: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """[U, D]: sum over each token's routes of gate · expert(x), on whatever rank that expert is."""
    gates_Q = _SendGates.apply(gates_UK, exchange, ep)
    x_MD = all_to_all_rows(copy_rows(x_UD, exchange.sent), exchange.send_rows, exchange.receive_rows, ep)
    if exchange.received is None:
        y_MD = run_experts(x_MD, exchange.counts_L, gates_Q)
    else:
        y_QD = run_experts(copy_rows(x_MD, exchange.received), exchange.counts_L, gates_Q)
        y_MD = sum_copies(y_QD, exchange.received)
    y_SD = all_to_all_rows(y_MD, exchange.receive_rows, exchange.send_rows, ep)
    return sum_copies(y_SD, exchange.sent)


@torch.no_grad()
def agree_on_rows(
    experts_UK: Tensor,
    kept_UK: Tensor | None,
    gates_UK: Tensor,
    num_experts: int,
    ep: Group,
    *,
    is_fused: bool = False,
) -> ExpertExchange:
    """Two small exchanges: how many rows and routes, then the routes with their gates. Waits for the device
    once, between them."""
    num_tokens, top_k = experts_UK.shape
    num_local = num_experts // ep.size
    expert_N = experts_UK.reshape(-1)
    rank_N = expert_N // num_local
    if kept_UK is not None:
        rank_N = rank_N.masked_fill(~kept_UK.reshape(-1), ep.size)
    if top_k == 1:
        return _agree_on_single_routes(expert_N, rank_N, gates_UK, num_local, ep, has_all=kept_UK is None)
    most = min(top_k, num_local)
    token_N = torch.arange(len(rank_N), device=rank_N.device) // top_k
    place_N = rank_N * num_tokens + token_N
    routes = rank_N.new_zeros((ep.size + 1) * num_tokens).scatter_add_(0, place_N, torch.ones_like(place_N))
    routes_PU = routes[: ep.size * num_tokens].view(ep.size, num_tokens)
    is_sent_PU = routes_PU > 0
    ranks_U = is_sent_PU.sum(0)
    # Rows with at least 1, 2, … routes: the first is all rows, and their sum is all routes.
    sent_PJ = torch.stack([(routes_PU >= number).sum(1) for number in range(1, most + 1)], 1)
    received_PJ = exchange_counts(sent_PJ, ep)
    turns = torch.stack([(ranks_U >= number).sum() for number in range(1, min(top_k, ep.size) + 1)])
    sizes = torch.cat([sent_PJ.reshape(-1), received_PJ.reshape(-1), turns]).tolist()
    sent, received = (
        [sizes[start + p * most : start + (p + 1) * most] for p in range(ep.size)]
        for start in (0, ep.size * most)
    )
    send_rows, receive_rows = (tuple(one[0] for one in each) for each in (sent, received))
    send_routes, receive_routes = (tuple(sum(one) for one in each) for each in (sent, received))

    route_R = stable_order(rank_N)[: sum(send_routes)]
    place_R = place_N.index_select(0, route_R)
    is_first_R = torch.ones_like(place_R, dtype=torch.bool)
    torch.ne(place_R[1:], place_R[:-1], out=is_first_R[1:])
    code_R = expert_N.index_select(0, route_R) % num_local * 2 + is_first_R
    gates_R = gates_UK.reshape(-1).index_select(0, route_R)
    arrived_gates_Q, code_Q = _exchange_gates(gates_R, code_R, send_routes, receive_routes, ep)

    order_Q = stable_order(code_Q // 2)
    arrival_R = inverse(order_Q)
    row_Q = (code_Q % 2).cumsum(0) - 1
    ones_Q = torch.ones_like(row_Q)
    copies = None
    if num_local > 1:  # where a rank has one expert, each row is one route and they need no order
        copies = row_copies(
            row_Q.index_select(0, order_Q),
            arrival_R,
            row_Q.new_zeros(sum(receive_rows)).scatter_add_(0, row_Q, ones_Q),
            [sum(each) for each in zip(*received, strict=True)],
            is_fused=is_fused,
        )
    return ExpertExchange(
        route_R=route_R,
        sent=_copies_for_ranks(
            is_sent_PU, ranks_U, sum(send_rows), sizes[2 * ep.size * most :], is_fused=is_fused
        ),
        received=copies,
        gates_Q=arrived_gates_Q.index_select(0, order_Q),
        arrival_R=arrival_R,
        counts_L=row_Q.new_zeros(num_local).scatter_add_(0, code_Q // 2, ones_Q),
        send_rows=send_rows,
        receive_rows=receive_rows,
        send_routes=send_routes,
        receive_routes=receive_routes,
    )


def _agree_on_single_routes(
    expert_U: Tensor, rank_U: Tensor, gates_UK: Tensor, num_local: int, ep: Group, *, has_all: bool
) -> ExpertExchange:
    """As `agree_on_rows` where a token has one route, which is its row: in a third of the operations.

    `rank_U`: of the token's expert, `ep.size` where its route is not kept; `has_all`: no route is dropped.
    """
    counts = rank_U.new_zeros(ep.size + 1).scatter_add_(0, rank_U, torch.ones_like(rank_U))
    sent_P1 = counts[: ep.size, None]
    sizes = torch.cat([sent_P1, exchange_counts(sent_P1, ep)], 1).tolist()
    send, receive = (tuple(column) for column in zip(*sizes, strict=True))
    route_R = stable_order(rank_U)[: sum(send)]
    gates_R = gates_UK.reshape(-1).index_select(0, route_R)
    expert_R = expert_U.index_select(0, route_R) % num_local
    gates_Q, expert_Q = _exchange_gates(gates_R, expert_R, send, receive, ep)
    order_Q = stable_order(expert_Q)
    arrival_Q = inverse(order_Q)
    if has_all:
        sent = RowCopies(
            num_rows=len(rank_U),
            row_C=route_R,
            rows_by_copies=route_R,
            turns=(),
            first_N=inverse(route_R),
        )
    else:
        turn = torch.arange(len(route_R), device=route_R.device)
        sent = RowCopies(
            num_rows=len(rank_U), row_C=route_R, rows_by_copies=route_R, turns=(turn,), first_N=None
        )
    received = RowCopies(
        num_rows=len(order_Q), row_C=order_Q, rows_by_copies=order_Q, turns=(), first_N=arrival_Q
    )
    return ExpertExchange(
        route_R=route_R,
        sent=sent,
        received=received if num_local > 1 else None,
        gates_Q=gates_Q.index_select(0, order_Q),
        arrival_R=arrival_Q,
        counts_L=expert_Q.new_zeros(num_local).scatter_add_(0, expert_Q, torch.ones_like(expert_Q)),
        send_rows=send,
        receive_rows=receive,
        send_routes=send,
        receive_routes=receive,
    )


def _exchange_gates(
    gates_R: Tensor, code_R: Tensor, send: Sequence[int], receive: Sequence[int], ep: Group
) -> tuple[Tensor, Tensor]:
    """Gates and codes of the routes that come to this rank, sent in one message."""
    message = torch.cat([gates_R[:, None].view(torch.int32), code_R.to(torch.int32)[:, None]], 1)
    message = exchange_routes(message, send, receive, ep)
    return message[:, :-1].reshape(-1).view(gates_R.dtype), message[:, -1].long()


def _copies_for_ranks(
    is_sent_PU: Tensor, ranks_U: Tensor, num_sent: int, turn_sizes: list[int], *, is_fused: bool
) -> RowCopies:
    num_tokens = len(ranks_U)
    row_PU = is_sent_PU.reshape(-1).cumsum(0).view_as(is_sent_PU) - 1
    place_PU = (ranks_U.cumsum(0) - ranks_U) + is_sent_PU.cumsum(0) - 1
    token_PU = torch.arange(num_tokens, device=ranks_U.device).expand_as(is_sent_PU)

    def listed(value_PU: Tensor, at_PU: Tensor) -> Tensor:
        # What is not sent is written behind the end: a boolean index would wait for the device.
        found = value_PU.new_empty(num_sent + 1)
        at = at_PU.masked_fill(~is_sent_PU, num_sent)
        return found.scatter_(0, at.reshape(-1), value_PU.reshape(-1))[:num_sent]

    tokens, places = listed(token_PU, row_PU), listed(row_PU, place_PU)
    return row_copies(tokens, places, ranks_U, turn_sizes, is_fused=is_fused)


class _SendGates(torch.autograd.Function):
    """Gates of received routes in order of expert, as they came with the routes; gradients are sent back."""

    @staticmethod
    def forward(ctx: Any, gates_UK: Tensor, exchange: ExpertExchange, ep: Group) -> Tensor:
        ctx.exchange, ctx.ep, ctx.shape = exchange, ep, gates_UK.shape
        return exchange.gates_Q.clone()

    @staticmethod
    def backward(ctx: Any, grad_Q: Tensor) -> tuple[Tensor | None, ...]:
        exchange: ExpertExchange = ctx.exchange
        back_Q = grad_Q.index_select(0, exchange.arrival_R)
        grad_R = exchange_routes(back_Q, exchange.receive_routes, exchange.send_routes, ctx.ep)
        grad_N = grad_R.new_zeros(ctx.shape.numel())
        grad_N.scatter_(0, exchange.route_R, grad_R)
        return grad_N.view(ctx.shape), None, None
