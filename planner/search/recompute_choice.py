"""Choice of recomputation: the least that fits the memory, which is the fastest of the kinds that do."""

from collections.abc import Iterator

from planner.memory.memory_model import MemoryModel
from planner.plan.plan import Plan
from planner.search.search_space import PlanWith
from planner.strategy.recompute import Recompute
from planner.timing.time_model import TimeModel

_NONE, _LAYER = Recompute(), Recompute("layer")


def fitting_plan(
    plan_with: PlanWith, memory: MemoryModel, times: TimeModel, limit: int
) -> tuple[Plan, int, float] | None:
    """The plan, the peak bytes of its fullest rank and the seconds of a step; None if none fits.

    Without recompute where that fits. Where all layers recomputed do not fit, nothing less does.
    """
    plan = plan_with(_NONE)
    peak = memory.peak_bytes(plan, limit)
    if peak <= limit:
        return plan, peak, times.step(plan).expected_s
    fitting = list(_fitting(plan_with, memory, limit))
    timed = [(times.step(plan).expected_s, peak, plan) for plan, peak in fitting]
    if not timed:
        return None
    step_s, peak, plan = min(timed, key=lambda each: each[:2])
    return plan, peak, step_s


def _fitting(plan_with: PlanWith, memory: MemoryModel, limit: int) -> Iterator[tuple[Plan, int]]:
    whole = plan_with(_LAYER)
    peak = memory.peak_bytes(whole, limit)
    if peak > limit:
        return
    yield whole, peak
    for recompute in (Recompute("attention"), Recompute("experts")):
        plan = plan_with(recompute)
        peak = memory.peak_bytes(plan, limit)
        if peak <= limit:
            yield plan, peak
    # The fewest layers of each stage: memory falls with each of them.
    deepest = max(one.num_dense + one.num_moe for one in whole.layout.order)
    few, enough = 0, deepest
    while enough - few > 1:
        middle = (few + enough) // 2
        fits = memory.peak_bytes(plan_with(Recompute("layer", middle)), limit) <= limit
        few, enough = (few, middle) if fits else (middle, enough)
    if enough < deepest:
        plan = plan_with(Recompute("layer", enough))
        yield plan, memory.peak_bytes(plan, limit)
