"""Plan of a strategy: the rules, then the choices that null leaves to the planner."""

from dataclasses import replace

from planner.memory.fit import fits
from planner.plan.ds_config import sums_locally
from planner.plan.plan import Plan
from planner.problems import StrategyError
from planner.rules.registry import find_broken_rules
from planner.strategy.schema import Strategy


def build_plan(strategy: Strategy) -> Plan:
    """The plan of a strategy; pure and deterministic.

    Raises:
        StrategyError: with every rule that the strategy breaks.
    """
    problems = tuple(find_broken_rules(strategy))
    if problems:
        raise StrategyError(problems)
    return choose_reduce(Plan(strategy=strategy))


def choose_reduce(plan: Plan) -> Plan:
    """The plan, with gradients reduced every micro-batch where runtime.reduce is null and sums do not fit."""
    if plan.strategy.runtime.reduce is None and sums_locally(plan) and not fits(plan):
        return replace(plan, chosen_reduce="every_micro_batch")
    return plan
