"""Report of a search: rows as a table for people, plain data for machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from planner.report.ledger import ErrorBar
from planner.report.tables import Table
from planner.search.search import Search, SearchRow
from planner.search.selection import (
    Order,
    gpu_seconds_per_million,
    money_per_million,
    tied_with_first,
)
from planner.search.trainable import Missing
from planner.units import format_bytes, format_number, format_seconds

_TEXTS = {"layout", "placement", "recompute", "precision", "tie", "trainable"}


@dataclass(frozen=True, kw_only=True)
class SearchView:
    """How a search is shown: its order, what was varied besides the layout, the planner's error if known."""

    found: Search
    missing: Missing
    by: Order
    varied: tuple[str, ...]
    error: ErrorBar | None

    @property
    def is_mixed(self) -> bool:
        """Whether this version trains some of the rows and not others."""
        return len({bool(self.missing[id(row)]) for row in self.found.rows}) > 1

    def ties(self, rows: Sequence[SearchRow]) -> tuple[bool | None, ...]:
        """Of each row with the first of the search; one that this version cannot train ties with no other."""
        first = self.found.rows[0]
        compared = (first, *rows)
        tied = tied_with_first(compared, self.by, None if self.error is None else self.error.median)[1:]
        return tuple(
            is_tied and bool(self.missing[id(row)]) == bool(self.missing[id(first)])
            for row, is_tied in zip(rows, tied, strict=True)
        )


def search_table(title: str, rows: Sequence[SearchRow], view: SearchView) -> Table:
    """Rows of a search; `#`, their place in it, is what --write takes."""
    places = {id(row): place for place, row in enumerate(view.found.rows, start=1)}
    cells = [
        _cells(view, row, places[id(row)], is_tied)
        for row, is_tied in zip(rows, view.ties(rows), strict=True)
    ]
    columns = tuple(cells[0])
    return Table(
        title=title,
        columns=columns,
        rows=tuple(tuple(each.values()) for each in cells),
        numeric=frozenset(columns) - _TEXTS,
        optional=("headroom", "per GPU", "accum", "recompute", *_alike(rows), "step"),
    )


def _cells(view: SearchView, row: SearchRow, place: int, is_tied: bool | None) -> dict[str, str]:
    parallel, training = row.strategy.parallel, row.strategy.training
    cells = {
        "#": str(place),
        "layout": parallel.layout_name,
        "placement": parallel.placement,
        "GPUs": str(row.gpus),
        "ZeRO": str(parallel.zero_stage),
    }
    if "precision" in view.varied:
        cells["precision"] = training.precision
    if "global_batch" in view.varied:
        cells["batch"] = f"{training.global_batch:,}"
    cells |= {
        "micro": str(training.micro_batch),
        "accum": str(row.plan.batch.accumulation),
        "recompute": _recompute(row),
        "step": format_seconds(row.step_s),
        "tokens/s": f"{row.tokens_per_s:,.0f}",
        "per GPU": f"{row.tokens_per_s / row.gpus:,.0f}",
    }
    if view.by == "cost":
        money = money_per_million(row)
        if money is None:
            cells["GPU-s/Mtoken"] = format_number(gpu_seconds_per_million(row))
        else:
            cells["$/Mtoken"] = f"{money:.3g}"
    if view.by == "gpus" or view.error is not None:
        cells["tie"] = "≈" if is_tied else ""
    cells |= {"peak": format_bytes(row.peak_bytes), "headroom": format_bytes(row.headroom_bytes)}
    if view.is_mixed:
        cells["trainable"] = "not yet" if view.missing[id(row)] else "yes"
    return cells


def _recompute(row: SearchRow) -> str:
    """What makes the plan fit: recomputation, and gradients reduced after every micro-batch; and whether its
    all-to-all is in two levels."""
    runtime = row.strategy.runtime
    often = ["reduce every"] if runtime.reduce == "every_micro_batch" else []
    levels = ["hierarchical"] if runtime.all_to_all == "hierarchical" else []
    return ", ".join([str(runtime.recompute), *often, *levels])


def _alike(rows: Sequence[SearchRow]) -> tuple[str, str]:
    """Placement and ZeRO stage, what rows differ in least first."""
    placements = {row.strategy.parallel.placement for row in rows}
    return ("placement", "ZeRO") if len(placements) == 1 else ("ZeRO", "placement")


def search_dict(view: SearchView, num_rows: int) -> dict[str, Any]:
    """For machines: the first rows and the entire front."""
    found, error = view.found, view.error
    return {
        "gpus": found.num_gpus,
        "legal": found.num_legal,
        "too_large": found.num_too_large,
        "memory_limit": found.limit,
        "lines": list(found.lines),
        "order": view.by,
        "varied": list(view.varied),
        "error_bar": None
        if error is None
        else {"runs": error.num_runs, "median": error.median, "largest": error.largest},
        "rows": _row_dicts(view, found.rows[:num_rows]),
        "pareto": _row_dicts(view, found.pareto),
    }


def _row_dicts(view: SearchView, rows: Sequence[SearchRow]) -> list[dict[str, Any]]:
    ties = view.ties(rows) if rows else ()
    return [
        {
            **row.strategy.parallel.model_dump(),
            "precision": row.strategy.training.precision,
            "global_batch": row.strategy.training.global_batch,
            "micro_batch": row.strategy.training.micro_batch,
            "recompute": row.strategy.runtime.recompute.written(),
            "reduce": row.plan.reduce,
            "all_to_all": row.strategy.runtime.all_to_all,
            "gpus": row.gpus,
            "step_s": row.step_s,
            "tokens_per_s": row.tokens_per_s,
            "gpu_seconds_per_million_tokens": gpu_seconds_per_million(row),
            "cost_per_million_tokens": money_per_million(row),
            "peak_bytes": row.peak_bytes,
            "headroom_bytes": row.headroom_bytes,
            "ties_with_first": is_tied,
            "trainable": not view.missing[id(row)],
        }
        for row, is_tied in zip(rows, ties, strict=True)
    ]
