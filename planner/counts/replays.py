"""Micro-batches that are computed twice to be compared (runtime.replay_every), per step."""

from math import lcm

from planner.plan.plan import Plan


def replays_per_step(plan: Plan) -> float:
    """On average: one every so many steps, and one before each checkpoint."""
    every, saved = plan.strategy.runtime.replay_every, plan.strategy.output.checkpoint_every
    if every is None:
        return 0.0
    return 1 / every + 1 / saved - 1 / lcm(every, saved)
