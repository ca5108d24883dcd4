"""Rows of a search that this version trains, and the keys that keep it from training the others."""

from collections.abc import Iterable, Sequence

from planner.plan.ds_config import zero_stage
from planner.rules.not_implemented import find_unimplemented
from planner.search.search import SearchRow
from planner.strategy.schema import Strategy

Missing = dict[int, tuple[str, ...]]  # by id of a row: keys whose value this version does not train yet


def untrainable_keys(strategy: Strategy) -> tuple[str, ...]:
    """Keys whose values this version can plan and not train yet."""
    return tuple(str(problem.path) for problem in find_unimplemented(strategy))


def missing_of(rows: Iterable[SearchRow]) -> Missing:
    """Of the rows of one search, which differ in layout, precision and recompute only."""
    known: dict[tuple[str, str, int], tuple[str, ...]] = {}
    missing: Missing = {}
    for row in rows:
        key = (row.strategy.training.precision, str(row.strategy.runtime.recompute), zero_stage(row.plan))
        if key not in known:
            known[key] = untrainable_keys(row.strategy)
        missing[id(row)] = known[key]
    return missing


def trainable_first(rows: Sequence[SearchRow], missing: Missing) -> tuple[SearchRow, ...]:
    """The rows that this version trains before the others, each kind in the given order."""
    return tuple(sorted(rows, key=lambda row: bool(missing[id(row)])))
