"""Choice of the all-to-all: in two levels, inside hosts and then between them, where that is faster."""

from dataclasses import replace

from planner.plan.plan import Plan
from planner.rules.hosts import hierarchical_groups_are_even
from planner.timing.time_model import TimeModel


def with_faster_all_to_all(plan: Plan, step_s: float, times: TimeModel) -> tuple[Plan, float]:
    """The plan and the seconds of its step. Both ways deliver the same rows, so only the time decides; a
    strategy that has written one of them keeps it.
    """
    runtime = plan.strategy.runtime
    is_free = "all_to_all" not in runtime.model_fields_set and plan.strategy.model.dispatch != "deepspeed"
    if not is_free or not any(one.ep.remote_peers and one.ep.local > 1 for one in plan.layout.order):
        return plan, step_s
    changed = runtime.model_copy(update={"all_to_all": "hierarchical"})
    other = replace(plan, strategy=plan.strategy.model_copy(update={"runtime": changed}))
    other_s = times.step(other).expected_s
    if other_s >= step_s or any(hierarchical_groups_are_even(other.strategy)):
        return plan, step_s
    return other, other_s
