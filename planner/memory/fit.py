"""Fit of a plan: its fullest rank against the memory limit, and the warning where it is too large."""

import math

from planner.counts.rank_workload import BALANCED, ExpertImbalance
from planner.memory.rank_memory import RankMemory, fullest_ranks
from planner.plan.memory_limit import describe_memory_limit, memory_limit
from planner.plan.operator_env import OperatorEnvironment
from planner.plan.plan import Plan
from planner.problems import Problem
from planner.units import format_bytes


def fullest_rank(plan: Plan, imbalance: ExpertImbalance = BALANCED) -> RankMemory:
    """The rank of a plan that needs most at its peak."""
    return max(fullest_ranks(plan, imbalance), key=lambda rank: rank.peak_bytes)


def fits(plan: Plan, imbalance: ExpertImbalance = BALANCED) -> bool:
    """Whether every rank is predicted to stay within the strategy's own limit (plan.memory_limit)."""
    return fullest_rank(plan, imbalance).peak_bytes <= memory_limit(plan.strategy)


def cap_problem(plan: Plan, operator: OperatorEnvironment) -> Problem | None:
    """A Problem where the operator's memory cap is below the plan's own limit, and below what a rank needs.

    Unlike a GPU that may turn out large enough, such a cap is a wish that the plan cannot meet.
    """
    limit = operator.memory_limit_bytes
    fullest = fullest_rank(plan)
    if limit >= memory_limit(plan.strategy) or fullest.peak_bytes <= limit:
        return None
    name = min(operator.limits, key=operator.limits.__getitem__)
    causes = ", ".join(
        f"{cause.replace('_', ' ')} {format_bytes(count)}"
        for cause, count in sorted(fullest.by_cause, key=lambda cause: -cause[1])
        if count
    )
    return Problem(
        code="SW307",
        file="environment",
        path=name,
        found=f"{operator.values[name]} allows {format_bytes(limit)} for a rank, but rank {fullest.rank} "
        f"needs {format_bytes(fullest.peak_bytes)}: {causes}",
        expected=f"at least {fullest.peak_bytes} bytes"
        if name == "MAX_MEMORY_PER_GPU"
        else f"at least {_fraction_of(fullest.peak_bytes, plan.strategy.cluster.gpu.memory)}",
        fix=f"raise {name} or unset it; or change the plan (`python -m launch search` finds plans that fit)",
    )


def _fraction_of(part: int, whole: int) -> str:
    """A share that allows at least `part`, as MEMORY_FRACTION takes it; more than all is no fraction."""
    share = math.ceil(part / whole * 1e4) / 1e4
    return f"{share:g}" if share <= 1 else f"a GPU with {format_bytes(part)}"


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
