"""Planner: strategies, plans and predictions, without a cluster and without torch."""

from typing import TYPE_CHECKING, Any

from planner.build import build_plan
from planner.loading.loader import load, loads, locate_problems
from planner.plan.plan import Batch, Host, Plan
from planner.problems import Problem, StrategyError
from planner.strategy.schema import Strategy
from planner.topology.grid import Grid
from planner.topology.placement import Stage
from planner.version import VERSION

if TYPE_CHECKING:
    from planner.prediction.predict import Prediction, predict

__version__ = VERSION

__all__ = [
    "Batch",
    "Grid",
    "Host",
    "Plan",
    "Prediction",
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
    """The cost model on first use: it is a third of the import, and a rank does not need it."""
    if name in ("predict", "Prediction"):
        from planner.prediction import predict as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
