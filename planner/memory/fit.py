"""Fit of a plan: its fullest rank against the memory limit, and the warning where it is too large."""

from planner.counts.rank_workload import BALANCED, ExpertImbalance
from planner.memory.rank_memory import RankMemory, fullest_ranks
from planner.plan.memory_limit import describe_memory_limit, memory_limit
from planner.plan.plan import Plan
from planner.units import format_bytes


def fullest_rank(plan: Plan, imbalance: ExpertImbalance = BALANCED) -> RankMemory:
    """The rank of a plan that needs most at its peak."""
    return max(fullest_ranks(plan, imbalance), key=lambda rank: rank.peak_bytes)


def fits(plan: Plan, imbalance: ExpertImbalance = BALANCED) -> bool:
    """Whether every rank is predicted to stay within the strategy's own limit (plan.memory_limit)."""
    return fullest_rank(plan, imbalance).peak_bytes <= memory_limit(plan.strategy)


def memory_warning(plan: Plan, limit_bytes: int) -> str | None:
    """One line where the fullest rank is predicted to need more than the limit in effect; None where it fits.

    For `generate` and train.py, which never refuse on a prediction.

    Args:
        limit_bytes: the operator's (planner.plan.operator_env), which is the plan's own unless exported.
    """
    fullest = fullest_rank(plan)
    if fullest.peak_bytes <= limit_bytes:
        return None
    is_own = limit_bytes == memory_limit(plan.strategy)
    limit = describe_memory_limit(plan.strategy) if is_own else f"{format_bytes(limit_bytes)} (environment)"
    return (
        f"SW305 the plan is not predicted to fit: rank {fullest.rank} needs up to "
        f"{format_bytes(fullest.peak_bytes)} of {limit}"
    )
