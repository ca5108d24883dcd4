"""Selections from a search: other orders, the plans that this version trains, ties, a thinned front."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from planner.search.search import Search, SearchRow, pareto_front
from planner.search.trainable import Missing

Order = Literal["throughput", "gpus", "cost"]
ORDERS: tuple[Order, ...] = ("throughput", "gpus", "cost")


def gpu_seconds_per_million(row: SearchRow) -> float:
    """GPU-seconds for a million tokens; a price of a GPU-hour makes money of them."""
    return row.gpus / row.tokens_per_s * 1e6


def money_per_million(row: SearchRow) -> float | None:
    """Money for a million tokens at cluster.cost, which is of a GPU-hour; None without it."""
    price = row.strategy.cluster.cost
    return None if price is None else price * gpu_seconds_per_million(row) / 3600


_KEYS: dict[Order, Callable[[SearchRow], tuple[float, float]]] = {
    "throughput": lambda row: (-row.tokens_per_s, row.gpus),
    "gpus": lambda row: (row.gpus, -row.tokens_per_s),
    "cost": lambda row: (gpu_seconds_per_million(row), row.gpus),
}


def order_rows(found: Search, by: Order, missing: Missing) -> Search:
    """Rows that this version trains first, each kind in the order `by`; ties as the search has them."""
    rows = sorted(found.rows, key=lambda row: (bool(missing[id(row)]), *_KEYS[by](row)))
    return replace(found, rows=tuple(rows))


def only_trainable(found: Search, missing: Missing) -> Search:
    """Without the rows that this version cannot train, and with the front of the others."""
    rows = tuple(row for row in found.rows if not missing[id(row)])
    return replace(found, rows=rows, pareto=tuple(pareto_front(rows)))


def tied_with_first(rows: Sequence[SearchRow], by: Order, error: float | None) -> tuple[bool | None, ...]:
    """For each row whether it is as good as the first, within the planner's error of a step's time.

    None for all where that error is unknown. GPUs are counted, not predicted: only equal numbers tie.
    """
    if by == "gpus":
        return tuple(row.gpus == rows[0].gpus for row in rows)
    if error is None:
        return (None,) * len(rows)
    if by == "cost":
        most = gpu_seconds_per_million(rows[0]) * (1 + error) if rows else 0.0
        return tuple(gpu_seconds_per_million(row) <= most for row in rows)
    least = rows[0].tokens_per_s / (1 + error) if rows else 0.0
    return tuple(row.tokens_per_s >= least for row in rows)


def thin_evenly(rows: Sequence[SearchRow], number: int) -> tuple[SearchRow, ...]:
    """At most `number` rows at equal distances, the first and the last among them."""
    if len(rows) <= number:
        return tuple(rows)
    if number == 1:
        return (rows[0],)
    return tuple(rows[round(i * (len(rows) - 1) / (number - 1))] for i in range(number))
