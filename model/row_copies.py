"""Copies of rows, and sums of what became of the copies: each is the other's backward.

A token's row is copied for each rank that has an expert of it, and there for each of these experts. All is
done by gathers, so that the result is the same in every run and a row's does not depend on its neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .fused import Kernel, Rows
from .norm import at_least_fp32

# N rows, C copies of them, D hidden


@dataclass(frozen=True, kw_only=True)
class RowCopies:
    """Which row each copy is of, and in which order a row's copies are summed.

    Sums go by turns, so that they need no padding: in turn j every row that has so many adds its copy j. Rows
    with the most copies come first in all turns, so a turn is a prefix of the one before.
    """

    num_rows: int
    row_C: Tensor
    rows_by_copies: Tensor  # those with a copy, with the most copies first
    turns: tuple[Tensor, ...]  # copy j of those rows that have one
    first_N: Tensor | None  # of each row; None where a row may have no copy
    is_fused: bool = False  # gathers and sums in one kernel a turn


def row_copies(
    row_C: Tensor,
    grouped_C: Tensor,
    copies_N: Tensor,
    turn_sizes: Sequence[int],
    *,
    is_fused: bool = False,
) -> RowCopies:
    """`grouped_C`: the copies of the first row in the order of their sum, then the second's, and so on;
    `copies_N`: how many each row has; `turn_sizes`: how many rows have a copy 0, a copy 1, …"""
    start_N = copies_N.cumsum(0) - copies_N
    rows_by_copies = copies_N.argsort(descending=True, stable=True)[: turn_sizes[0] if turn_sizes else 0]
    start_by_copies = start_N.index_select(0, rows_by_copies)
    turns = tuple(
        grouped_C.index_select(0, start_by_copies[:size] + turn)
        for turn, size in enumerate(turn_sizes)
        if size
    )
    has_all = bool(turn_sizes) and turn_sizes[0] == len(copies_N)
    return RowCopies(
        num_rows=len(copies_N),
        row_C=row_C,
        rows_by_copies=rows_by_copies,
        turns=turns,
        first_N=grouped_C.index_select(0, start_N) if has_all else None,
        is_fused=is_fused,
    )


def stable_order(key_N: Tensor) -> Tensor:
    """As argsort. By int16 two passes over 8 bits each, by int64 eight: CUB's radix sort, and torch's on CPUs
    from some thousand keys on (131,072 keys in 0.33 instead of 0.97 ms)."""
    return key_N.to(torch.int16).argsort(stable=True)


def inverse(order_N: Tensor) -> Tensor:
    """The place of each index in `order_N`, which has each of 0 to N - 1 once."""
    places_N = torch.arange(len(order_N), device=order_N.device)
    return torch.empty_like(order_N).scatter_(0, order_N, places_N)


def copy_rows(x_ND: Tensor, copies: RowCopies) -> Tensor:
    """[C, D]: each copy."""
    return _CopyRows.apply(x_ND, copies)


def sum_copies(x_CD: Tensor, copies: RowCopies) -> Tensor:
    """[N, D]: the sum of each row's copies, in fp32 at least, rounded once; 0 for a row without any."""
    return _SumCopies.apply(x_CD, copies)


class _CopyRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, copies: RowCopies) -> Tensor:
        ctx.copies = copies
        return x_ND.index_select(0, copies.row_C)

    @staticmethod
    def backward(ctx: Any, grad_CD: Tensor) -> tuple[Tensor | None, ...]:
        return _sum(grad_CD, ctx.copies), None


class _SumCopies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_CD: Tensor, copies: RowCopies) -> Tensor:
        ctx.copies = copies
        return _sum(x_CD, copies)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        return grad_ND.index_select(0, ctx.copies.row_C), None


def _sum(x_CD: Tensor, copies: RowCopies) -> Tensor:
    turns, rows = copies.turns, copies.rows_by_copies
    if copies.first_N is not None:
        total_ND = x_CD.index_select(0, copies.first_N)
    else:
        total_ND = x_CD.new_zeros(copies.num_rows, x_CD.shape[1])
        if turns:
            total_ND.index_copy_(0, rows, x_CD.index_select(0, turns[0]))
    if len(turns) > 1:
        # Only rows with several copies are summed, and made wide.
        several = len(turns[1])
        if copies.is_fused:
            sums = ADD_PAIRS(x_CD, turns[0][:several], turns[1])
            for turn in turns[2:]:
                ADD_TURN(sums[: len(turn)], x_CD, turn)
        else:
            sums = _add_pairs(x_CD, turns[0][:several], turns[1])
            for turn in turns[2:]:
                _add_turn(sums[: len(turn)], x_CD, turn)
        total_ND.index_copy_(0, rows[:several], sums.to(x_CD.dtype))
    return total_ND


def _add_pairs(x_CD: Tensor, first_M: Tensor, second_M: Tensor) -> Tensor:
    return at_least_fp32(x_CD.index_select(0, first_M)) + x_CD.index_select(0, second_M)


def _add_turn(sums_MD: Tensor, x_CD: Tensor, turn_M: Tensor) -> None:
    sums_MD += x_CD.index_select(0, turn_M)


ADD_PAIRS = Kernel("permutation, two copies", _add_pairs, [Rows(1), Rows(), Rows()])
ADD_TURN = Kernel("permutation, one more copy", _add_turn, [Rows(), Rows(1), Rows()])
