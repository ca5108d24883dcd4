"""Expert load that runtime.force_routing implies: rows of the fullest EP rank, counted over one step."""

from dataclasses import dataclass
from functools import lru_cache

from planner.counts.forced_routes import ForcedRoutes, forced_routes
from planner.plan.plan import Plan
from planner.topology.grid import share
from planner.topology.placement import Stage


@dataclass(frozen=True, kw_only=True)
class ForcedLoad:
    """Rows of the fullest rank of an EP group over the mean of its ranks, before any drop.

    factor: mean over the micro-batches of a step, in the EP group where it is highest. peak_factor: of the
    fullest micro-batch.
    """

    factor: float
    peak_factor: float


def forced_load(plan: Plan, stage: Stage) -> ForcedLoad | None:
    """Of the first step, in a stage with experts; None where the router chooses. Other steps differ by what
    rounding to a row makes."""
    if plan.strategy.runtime.force_routing is None or stage.expert is None:
        return None
    routes = forced_routes(plan.strategy, 1)
    assert routes is not None
    return _count(
        routes,
        accumulation=plan.batch.accumulation,
        num_data=stage.dense.size("data"),
        tp=stage.dense.size("tp"),
        ep=stage.expert.size("ep"),
        rank_tokens=plan.batch.micro_batch_of(stage) * plan.strategy.training.seq_length,
    )


def plan_load(plan: Plan) -> ForcedLoad | None:
    """Of the plan's stages with experts, which are alike; None where the router chooses."""
    return next((load for stage in plan.stages if (load := forced_load(plan, stage)) is not None), None)


@lru_cache(maxsize=256)
def _count(
    routes: ForcedRoutes, *, accumulation: int, num_data: int, tp: int, ep: int, rank_tokens: int
) -> ForcedLoad:
    """Every EP group takes consecutive tokens: of ep/tp data-parallel ranks, or a share of one's."""
    if ep >= tp:
        lengths = [rank_tokens * (ep // tp)] * (num_data * tp // ep)
    else:
        shares = [share(rank_tokens, tp, place) for place in range(tp)]
        lengths = [sum(shares[first : first + ep]) for first in range(0, tp, ep)] * num_data
    if ep == 1:
        return ForcedLoad(factor=1.0, peak_factor=1.0)
    local = routes.num_experts // ep
    sums = [0.0] * len(lengths)
    peak, start = 1.0, 0
    for _ in range(accumulation):
        for group, length in enumerate(lengths):
            rows = routes.rows(start, start + length)
            start += length
            most = max(sum(rows[first : first + local]) for first in range(0, routes.num_experts, local))
            factor = most * ep / (length * routes.top_k) if length else 1.0
            sums[group] += factor
            peak = max(peak, factor)
    return ForcedLoad(factor=max(sums) / accumulation, peak_factor=peak)
