"""Seconds of a stage boundary: one micro-batch's activations to the next stage, or their gradients back."""

from dataclasses import dataclass
from typing import Literal

from planner.counts.payload import payload_bytes
from planner.plan.plan import Plan
from planner.strategy.schema import Strategy
from planner.timing.collective_time import Network, send_s
from planner.topology.layout import BoundaryClass
from planner.topology.stage_boundary import chunk_sequences, find_boundary_load


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Where two stages meet. transfer_s: one micro-batch's activations to the next, or their gradients back.

    num_bytes: what the fullest rank at it sends or receives for that. chunks: into how many the stage without
    layers, on the side `cut`, cuts its micro-batch.
    """

    transfer_s: float
    num_bytes: int = 0
    chunks: int = 1
    cut: Literal["before", "after"] | None = None

    @property
    def both_ways_s(self) -> float:
        return 2 * self.transfer_s

    def hidden_s(self, busy_s: float) -> float:
        """What the chunks of a stage that is busy for so long take off one crossing.

        Of the shorter of the two, all but one chunk runs beside the longer.
        """
        return (1 - 1 / self.chunks) * min(busy_s, self.transfer_s)


def boundaries_of(plan: Plan, network: Network) -> tuple[Boundary, ...]:
    """Transfers between neighbouring stages, of one micro-batch, as topology.stage_boundary cuts them."""
    sequences = plan.batch.global_batch // plan.batch.accumulation
    return tuple(boundary_of(each, sequences, plan.strategy, network) for each in plan.layout.boundaries)


def boundary_of(between: BoundaryClass, num_sequences: int, strategy: Strategy, network: Network) -> Boundary:
    """One micro-batch's transfer. Every element crosses once; TP partners send, and receive, a share each.

    The fullest rank decides. Gathering shares inside a stage that needs whole vectors is the stage's own work
    (timing.layer_time).

    Args:
        num_sequences: of all ranks.
    """
    before, after = between.before.stage, between.after.stage
    load = find_boundary_load(before, after, num_sequences, strategy.model.hidden_size)
    positions = strategy.training.seq_length
    num_bytes = payload_bytes(strategy, load.num_elements * positions, load.num_rows * positions)
    transfer = send_s(num_bytes, network, same_host=between.is_on_one_host, messages=load.num_messages)
    for side, stage, other in (("before", before, after), ("after", after, before)):
        if not stage.layers and stage.data_parallel_size < other.data_parallel_size:
            own = num_sequences // stage.data_parallel_size
            chunks = -(-own // chunk_sequences(before, after, num_sequences))
            cut: Literal["before", "after"] = "before" if side == "before" else "after"
            return Boundary(transfer_s=transfer, num_bytes=num_bytes, chunks=chunks, cut=cut)
    return Boundary(transfer_s=transfer, num_bytes=num_bytes)
