"""Thinking without a cluster: from what a person wrote to what follows from it. Imports no torch."""

from planner.loading.loader import load, loads, locate_problems
from planner.plan.plan import Batch, Host, Plan, build_plan
from planner.problems import Problem, StrategyError
from planner.strategy.schema import Strategy
from planner.topology.grid import Grid
from planner.topology.placement import Stage

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Grid",
    "Host",
    "Plan",
    "Problem",
    "Stage",
    "Strategy",
    "StrategyError",
    "__version__",
    "build_plan",
    "load",
    "loads",
    "locate_problems",
]
