"""Roofline of a step: seconds that no runtime of this layout beats, whatever its kernels and its overlap."""

from dataclasses import dataclass, replace

from planner.counts.module_flops import stage_modules
from planner.counts.rank_workload import ExpertImbalance
from planner.hardware.catalog import Device
from planner.plan.ds_config import zero_stage
from planner.plan.plan import Plan
from planner.strategy.changes import change_keys
from planner.timing.collective_time import all_reduce_s, network_of
from planner.timing.gemm_time import rate
from planner.timing.time_model import TimeModel

_AT_ONCE = 1e-15  # seconds: a start-up time that adds nothing
_NO_BOUND = 1e9  # times as fast as the strategy's links
# AdamW reads and writes fp32 weights and two moments of each parameter it updates.
_STATE_BYTES = {"fp32": 24, "bf16": 16}


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Seconds that the fullest rank's GEMMs, memory and links need for a step at their peaks.

    compute_s: FLOPs with causal attention, nothing recomputed. memory_s: weights read once a pass, the
    optimizer's state read and written once, at the memory's own bandwidth. links_s: every byte
    once at the links' full bandwidth, inside a host and between hosts at the same time; None: one rank, or
    links that were measured, whose peak is not known.
    """

    compute_s: float
    memory_s: float
    links_s: float | None

    @property
    def step_s(self) -> float:
        """All three at once, each hidden behind the longest."""
        return max(self.compute_s, self.memory_s, self.links_s or 0.0)

    @property
    def bound_by(self) -> str:
        """Which of the three is the longest."""
        named = {"GEMMs": self.compute_s, "memory": self.memory_s, "links": self.links_s or 0.0}
        return max(named, key=lambda name: named[name])


def roofline(plan: Plan, device: Device, imbalance: ExpertImbalance) -> Roofline:
    """The bound of a plan's layout on a device, for the same balance of expert tokens."""
    peak, accumulation = rate(device, plan.strategy.training.precision)[0], plan.batch.accumulation
    compute = max(
        accumulation * sum(m.flops_forward + m.flops_backward for m in stage_modules(plan, stage, imbalance))
        for stage in plan.stages
    )
    is_measured = (
        plan.world_size == 1
        or device.is_cpu
        or bool(device.collectives)
        or device.intra_bytes_per_s is not None
    )
    return Roofline(
        compute_s=compute / peak,
        memory_s=_memory_s(plan, device, imbalance),
        links_s=None if is_measured else _links_s(plan, device, imbalance),
    )


def _memory_s(plan: Plan, device: Device, imbalance: ExpertImbalance) -> float:
    element, zero = plan.strategy.training.element_bytes, zero_stage(plan)
    most: float = 0.0
    for one, time in zip(plan.layout.order, TimeModel(device, imbalance).step(plan).stages, strict=True):
        held = time.micro_batch.held
        owned = float(held.dense + held.experts)
        if zero:
            owned = held.dense / one.data.size + held.experts / one.edp.size
        most = max(
            most,
            2.0 * element * (held.dense + held.experts)
            + _STATE_BYTES[plan.strategy.training.optimizer.moments] * owned,
        )
    return most / plan.strategy.cluster.gpu.memory_bandwidth


def _links_s(plan: Plan, device: Device, imbalance: ExpertImbalance) -> float:
    """The busier of the two kinds of links, each alone: the other then takes no time."""
    ideal = replace(
        device, link_share=1.0, message_s=_AT_ONCE, intra_latency_s=_AT_ONCE, inter_latency_s=_AT_ONCE
    )
    return max(_links_alone_s(plan, ideal, imbalance, other) for other in ("intra_host", "inter_host"))


def _links_alone_s(plan: Plan, ideal: Device, imbalance: ExpertImbalance, other: str) -> float:
    links = plan.strategy.cluster.links
    changes: dict[str, object] = {
        f"cluster.links.{other}": getattr(links, other) * _NO_BOUND,
        "runtime.recompute": "none",
    }
    if other == "inter_host":
        changes |= {"cluster.links.per_host": None, "cluster.links.oversubscription": 1.0}
    alone = replace(plan, strategy=change_keys(plan.strategy, changes))
    network, element = network_of(alone, ideal), plan.strategy.training.element_bytes
    most = 0.0
    for one, time in zip(plan.layout.order, TimeModel(ideal, imbalance).step(alone).stages, strict=True):
        held = time.micro_batch.held
        # Gradients once; under ZeRO their reduce-scatter and the weights' all-gather are as many bytes.
        reduced = all_reduce_s(element * held.dense, one.data, network)
        reduced += all_reduce_s(element * held.experts, one.edp, network)
        parts = one.ep.hosts if other == "intra_host" else one.ep.size
        dispatched = time.forward.all_to_all_s + time.backward.all_to_all_s
        dispatched *= _sent_once(parts, plan.strategy.model.num_experts_per_tok)
        sums = time.forward.tensor_parallel_s + time.backward.tensor_parallel_s
        most = max(most, plan.batch.accumulation * (dispatched + sums) + reduced)
    return most


def _sent_once(parts: int, routes: int) -> float:
    """Copies of a token, over its routes, where each host (or rank) that needs it gets one: routes fall on
    `parts` of them evenly and at random."""
    return parts * (1 - (1 - 1 / parts) ** routes) / routes
