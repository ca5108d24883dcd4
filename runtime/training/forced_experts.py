"""Experts of a step's tokens under runtime.force_routing, as arrays."""

import numpy as np

from planner import Strategy
from planner.counts.forced_routes import forced_routes
from runtime.training.micro_batch import ReadExperts


def forced_experts(strategy: Strategy, step: int) -> ReadExperts | None:
    """Reads the experts of sequences of the global batch of step `step` (counted from 1); None where the
    routers choose. The same in every MoE layer."""
    routes = forced_routes(strategy, step)
    if routes is None:
        return None
    seq_length = strategy.training.seq_length

    def read(sequences: slice) -> np.ndarray:
        index = np.arange(sequences.start * seq_length, sequences.stop * seq_length)
        return np.stack(routes.experts_of(index.reshape(-1, seq_length)), axis=-1)

    return read
