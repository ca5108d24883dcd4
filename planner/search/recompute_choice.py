"""Choice of recomputation, and of when gradients are reduced: the fastest that fits the memory."""

from collections.abc import Iterator, Sequence

from planner.memory.memory_model import MemoryModel
from planner.plan.ds_config import sums_locally
from planner.plan.plan import Plan
from planner.rules.not_implemented import find_unimplemented
from planner.search.search_space import PlanWith
from planner.strategy.execution import Reduce
from planner.strategy.recompute import Recompute
from planner.timing.time_model import TimeModel

_NONE, _LAYER = Recompute(), Recompute("layer")


def fitting_plan(
    plan_with: PlanWith, reduces: Sequence[Reduce | None], memory: MemoryModel, times: TimeModel, limit: int
) -> tuple[Plan, int, float] | None:
    """The plan, the peak bytes of its fullest rank and the seconds of a step; None if none fits.

    Without recompute and with the first of `reduces` where that fits, else the fastest that does; one that
    this version trains before one that it does not.
    """
    plan = plan_with(_NONE, reduces[0])
    peak = memory.peak_bytes(plan, limit)
    if peak <= limit:
        return plan, peak, times.step(plan).expected_s
    others = reduces if sums_locally(plan) else reduces[:1]  # else they are the same plan
    timed = [
        (times.step(plan).expected_s, peak, plan)
        for reduce in others
        for plan, peak in _fitting(plan_with, reduce, memory, limit)
    ]
    if not timed:
        return None
    step_s, peak, plan = min(timed, key=lambda each: (bool(find_unimplemented(each[2].strategy)), *each[:2]))
    return plan, peak, step_s


def _fitting(
    plan_with: PlanWith, reduce: Reduce | None, memory: MemoryModel, limit: int
) -> Iterator[tuple[Plan, int]]:
    """Where all layers recomputed do not fit, nothing less does."""
    whole = plan_with(_LAYER, reduce)
    peak = memory.peak_bytes(whole, limit)
    if peak > limit:
        return
    yield whole, peak
    for recompute in (_NONE, Recompute("attention"), Recompute("experts")):
        plan = plan_with(recompute, reduce)
        peak = memory.peak_bytes(plan, limit)
        if peak <= limit:
            yield plan, peak
    # The fewest layers of each stage: memory falls with each of them.
    deepest = max(one.num_dense + one.num_moe for one in whole.layout.order)
    few, enough = 0, deepest
    while enough - few > 1:
        middle = (few + enough) // 2
        fits = memory.peak_bytes(plan_with(Recompute("layer", middle), reduce), limit) <= limit
        few, enough = (few, middle) if fits else (middle, enough)
    if enough < deepest:
        plan = plan_with(Recompute("layer", enough), reduce)
        yield plan, memory.peak_bytes(plan, limit)
