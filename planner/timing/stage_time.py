"""Seconds that one rank of a stage is busy: with a micro-batch forward and backward, and once a step."""

from dataclasses import dataclass

from planner.plan.plan import Plan
from planner.timing import collective_time, op_overhead
from planner.timing.collective_time import Network, slowdown, world_spread
from planner.timing.layer_time import Part, Parts, Pass, joined
from planner.timing.optimizer_time import Held, gradient_reduce_s, optimizer_s
from planner.topology.placement import Stage


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """Seconds of a stage's slowest rank. `forward`, `backward`: a micro-batch. The rest: a step.

    all_to_all_bytes: what leaves a rank one way and layer in the forward pass. held: its parameters.
    """

    forward: Pass
    backward: Pass
    gradient_reduce_s: float
    optimizer_s: float
    data_s: float
    other_s: float
    all_to_all_bytes: float
    held: Held

    @property
    def micro_batch_s(self) -> float:
        return self.forward.total_s + self.backward.total_s


def stage_time(plan: Plan, stage: Stage, parts: Parts, network: Network) -> StageTime:
    """What a stage of a plan costs."""
    found, device = parts.of(plan, stage, network), parts.device
    held = held_of(found)
    other = op_overhead.OTHER_OPERATIONS * device.operation_s * slowdown(device, network)
    return StageTime(
        forward=joined([(times, part.forward) for times, part in found]),
        backward=joined([(times, part.backward) for times, part in found]),
        gradient_reduce_s=gradient_reduce_s(plan, stage, held, device, network),
        optimizer_s=optimizer_s(plan, stage, held, device, network),
        data_s=plan.batch.accumulation * op_overhead.DATA_OPERATIONS * device.operation_s,
        other_s=other + collective_time.all_reduce_s(32, world_spread(plan, network), network),
        all_to_all_bytes=max((part.all_to_all_bytes for _, part in found), default=0.0),
        held=held,
    )


def held_of(found: tuple[tuple[int, Part], ...]) -> Held:
    """The parameters of a stage's rank."""
    return Held(
        dense=sum(times * part.dense_elements for times, part in found),
        experts=sum(times * part.expert_elements for times, part in found),
        num_tensors=sum(times * part.num_tensors for times, part in found),
    )
