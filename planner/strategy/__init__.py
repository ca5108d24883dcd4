"""Strategy: every section and key of the YAML file, its type, bounds and default."""

from planner.strategy.schema import Strategy

__all__ = ["Strategy"]
