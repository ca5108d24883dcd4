"""Plan: hosts, stages, batch, fingerprints, and the files that describe a run."""

from planner.plan.plan import Batch, Host, Plan

__all__ = ["Batch", "Host", "Plan"]
