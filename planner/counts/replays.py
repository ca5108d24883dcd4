"""How often a step is checked for silent corruption: copies compared, a micro-batch computed twice."""

from math import lcm

from planner.plan.plan import Plan


def replays_per_step(plan: Plan) -> float:
    """Micro-batches that are computed twice (runtime.replay_every): one in each step that is due."""
    every = plan.strategy.runtime.replay_every
    return 0.0 if every is None else _due_share(plan, every)


def comparisons_per_step(plan: Plan) -> float:
    """Of all copies (runtime.check_replicas_every): two in each step that is due, around the update."""
    return 2 * _due_share(plan, plan.strategy.runtime.check_replicas_every)


def _due_share(plan: Plan, every: int) -> float:
    """Of all steps: one of so many, and each before a checkpoint."""
    saved = plan.strategy.output.checkpoint_every
    return 1 / every + 1 / saved - 1 / lcm(every, saved)
