"""Report of a search: rows as a table for people, plain data for machines."""

from collections.abc import Sequence
from typing import Any

from planner.report.tables import Table
from planner.search.search import Search, SearchRow
from planner.units import format_bytes, format_seconds

_SEARCH_COLUMNS = (
    "#",
    "layout",
    "placement",
    "GPUs",
    "ZeRO",
    "micro",
    "accum",
    "recompute",
    "step",
    "tokens/s",
)


def search_table(title: str, rows: Sequence[SearchRow], found: Search) -> Table:
    """Rows of a search; `#`, their place in it, is what --write takes."""
    places = {id(row): place for place, row in enumerate(found.rows, start=1)}
    columns = (*_SEARCH_COLUMNS, "per GPU", "peak", "headroom")
    cells = []
    for row in rows:
        plan, parallel = row.plan, row.strategy.parallel
        cells.append(
            (
                str(places[id(row)]),
                parallel.short_name,
                parallel.placement,
                str(row.gpus),
                str(parallel.zero_stage),
                str(row.strategy.training.micro_batch),
                str(plan.batch.accumulation),
                row.strategy.runtime.recompute,
                format_seconds(row.step_s),
                f"{row.tokens_per_s:,.0f}",
                f"{row.tokens_per_s / row.gpus:,.0f}",
                format_bytes(row.peak_bytes),
                format_bytes(row.headroom_bytes),
            )
        )
    return Table(
        title=title,
        columns=columns,
        rows=tuple(cells),
        numeric=frozenset(columns) - {"layout", "placement", "recompute"},
        optional=("headroom", "per GPU", "accum", "recompute", *_alike(rows), "step"),
    )


def _alike(rows: Sequence[SearchRow]) -> tuple[str, str]:
    """Placement and ZeRO stage, what rows differ in least first."""
    placements = {row.strategy.parallel.placement for row in rows}
    return ("placement", "ZeRO") if len(placements) == 1 else ("ZeRO", "placement")


def search_dict(found: Search, num_rows: int) -> dict[str, Any]:
    """For machines: the first rows and the front."""
    return {
        "gpus": found.num_gpus,
        "legal": found.num_legal,
        "too_large": found.num_too_large,
        "memory_limit": found.limit,
        "lines": list(found.lines),
        "rows": [_row_dict(row) for row in found.rows[:num_rows]],
        "pareto": [_row_dict(row) for row in found.pareto],
    }


def _row_dict(row: SearchRow) -> dict[str, Any]:
    strategy = row.strategy
    return {
        **strategy.parallel.model_dump(),
        "precision": strategy.training.precision,
        "global_batch": strategy.training.global_batch,
        "micro_batch": row.strategy.training.micro_batch,
        "recompute": row.strategy.runtime.recompute,
        "gpus": row.gpus,
        "step_s": row.step_s,
        "tokens_per_s": row.tokens_per_s,
        "peak_bytes": row.peak_bytes,
        "headroom_bytes": row.headroom_bytes,
    }
