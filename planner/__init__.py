"""Thinking without a cluster: from what a person wrote to what follows from it. Imports no torch."""

from typing import TYPE_CHECKING, Any

from planner.loading.loader import load, loads, locate_problems
from planner.plan.plan import Batch, Host, Plan, build_plan
from planner.problems import Problem, StrategyError
from planner.strategy.schema import Strategy
from planner.topology.grid import Grid
from planner.topology.placement import Stage

if TYPE_CHECKING:
    from planner.prediction.predict import predict

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
    "predict",
]


def __getattr__(name: str) -> Any:
    """`predict`, on first use: a rank needs the plan and not the cost model, a third of the import."""
    if name == "predict":
        from planner.prediction.predict import predict

        return predict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
