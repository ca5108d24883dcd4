"""Memory warning of a plan: said by `generate` and train.py, which never refuse on a prediction."""

from planner.memory.rank_memory import fullest_ranks
from planner.plan.memory_limit import describe_memory_limit, memory_limit
from planner.plan.plan import Plan
from planner.units import format_bytes


def memory_warning(plan: Plan, limit_bytes: int) -> str | None:
    """One line where the fullest rank is predicted to need more than the limit in effect; None where it fits.

    Args:
        limit_bytes: the operator's (planner.plan.operator_env), which is the plan's own unless exported.
    """
    fullest = max(fullest_ranks(plan), key=lambda rank: rank.peak_bytes)
    if fullest.peak_bytes <= limit_bytes:
        return None
    is_own = limit_bytes == memory_limit(plan.strategy)
    limit = describe_memory_limit(plan.strategy) if is_own else f"{format_bytes(limit_bytes)} (environment)"
    return (
        f"SW305 the plan is not predicted to fit: rank {fullest.rank} needs up to "
        f"{format_bytes(fullest.peak_bytes)} of {limit}"
    )
