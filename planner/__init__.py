"""Thinking without a cluster: from what a person wrote to what follows from it. Imports no torch."""

from planner.grid import Grid
from planner.load import load, loads, with_lines
from planner.placement import Stage
from planner.plan import Batch, Host, Plan, build_plan
from planner.problems import Problem, StrategyError
from planner.strategy import Strategy

__all__ = [
    "Batch",
    "Grid",
    "Host",
    "Plan",
    "Problem",
    "Stage",
    "Strategy",
    "StrategyError",
    "build_plan",
    "load",
    "loads",
    "with_lines",
]
