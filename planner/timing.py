"""Seconds that one rank of a stage is busy, by cause: one micro-batch forward and backward, and once a step.

Of a stage's ranks the slowest is meant: the first of its TP partners, in the group that lies worst over
hosts. Tokens are taken to reach experts evenly. Nothing is overlapped here; planner.schedule puts it
together.
"""

from dataclasses import dataclass

from planner import comms, kernels
from planner.comms import Network, slowdown, spread_of, world_spread
from planner.hardware import Device
from planner.kernels import Traffic
from planner.placement import Stage
from planner.plan import Plan
from planner.portion import Portion, portion
from planner.products import backward_s, forward_s
from planner.updates import gradient_reduce_s, optimizer_s
from planner.work import stage_work


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Seconds of one pass of one micro-batch; `causes` split `compute_s` by module."""

    compute_s: float
    all_to_all_s: float
    tensor_parallel_s: float
    causes: tuple[tuple[str, float], ...]

    @property
    def communication_s(self) -> float:
        return self.all_to_all_s + self.tensor_parallel_s

    @property
    def total_s(self) -> float:
        return self.compute_s + self.communication_s


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """Seconds of a stage's slowest rank. `forward`, `backward`: a micro-batch. The rest: a step.

    all_to_all_bytes: what leaves a rank one way and layer in the forward pass.
    """

    forward: Pass
    backward: Pass
    gradient_reduce_s: float
    optimizer_s: float
    data_s: float
    other_s: float
    all_to_all_bytes: float

    @property
    def micro_batch_s(self) -> float:
        return self.forward.total_s + self.backward.total_s


def stage_time(plan: Plan, stage: Stage, device: Device, network: Network) -> StageTime:
    """What a stage of a plan costs on a device."""
    p = portion(plan, stage)
    backward_too = [
        _pass(plan, stage, p, device, network, is_backward=is_backward) for is_backward in (False, True)
    ]
    return StageTime(
        forward=backward_too[0],
        backward=backward_too[1],
        gradient_reduce_s=gradient_reduce_s(plan, stage, device, network),
        optimizer_s=optimizer_s(plan, stage, device, network),
        data_s=plan.batch.accumulation * kernels.DATA_OPERATIONS * device.operation_s,
        other_s=kernels.OTHER_OPERATIONS * device.operation_s * slowdown(device, network)
        + comms.all_reduce_s(32, world_spread(plan, network), network),
        all_to_all_bytes=_dispatched_bytes(plan, p) * (p.ep - 1) / p.ep if _has_experts(plan, stage) else 0.0,
    )


def _layers(plan: Plan, stage: Stage) -> tuple[int, int]:
    dense = sum(layer < plan.strategy.model.first_dense_layers for layer in stage.layers)
    return dense, len(stage.layers) - dense


def _has_experts(plan: Plan, stage: Stage) -> bool:
    return _layers(plan, stage)[1] > 0


# One pass


def _pass(
    plan: Plan, stage: Stage, p: Portion, device: Device, network: Network, *, is_backward: bool
) -> Pass:
    recomputes = plan.strategy.runtime.recompute == "layer"
    slow = slowdown(device, network)
    causes = [
        (name, seconds * slow)
        for name, seconds in _compute(plan, stage, p, device, is_backward=is_backward, recomputes=recomputes)
    ]
    all_to_all = _all_to_all_s(plan, stage, p, network, is_backward=False)
    tensor_parallel = _tensor_parallel_s(plan, stage, p, network)[is_backward]
    if is_backward:
        again = all_to_all if recomputes else 0.0
        all_to_all = again + _all_to_all_s(plan, stage, p, network, is_backward=True)
        tensor_parallel += _layer_sums_s(plan, stage, p, network)[0] if recomputes else 0.0
    return Pass(
        compute_s=sum(seconds for _, seconds in causes),
        all_to_all_s=all_to_all,
        tensor_parallel_s=tensor_parallel,
        causes=tuple(causes),
    )


def _compute(
    plan: Plan, stage: Stage, p: Portion, device: Device, *, is_backward: bool, recomputes: bool
) -> list[tuple[str, float]]:
    precision = plan.strategy.training.precision
    causes: list[tuple[str, float]] = []
    for work in stage_work(plan, stage):
        if is_backward:
            again = recomputes and work.is_in_layer
            seconds = backward_s(work, p, device, precision, recomputes=again)
        else:
            seconds = forward_s(work, p, device, precision)
        if work.name == "head":  # its gradients are made in the forward pass (model/output.py)
            seconds = (
                0.0 if is_backward else seconds + backward_s(work, p, device, precision, recomputes=False)
            )
        if seconds:
            causes.append((f"products: {work.name}", seconds))
    traffic = _traffic(plan, stage, p, is_backward=is_backward, recomputes=recomputes)
    moved = traffic.num_bytes / device.elementwise.at(kernels.operation_bytes(p.model, p.tokens))
    issued = traffic.operations * device.operation_s
    causes.append(("operations that are no products", moved))
    if device.is_cpu:
        causes.append(("issuing operations", issued))
    else:
        # A GPU works while the host issues; what the host takes longer, the GPU waits.
        causes.append(("waiting for the host to issue", max(0.0, issued - sum(s for _, s in causes))))
    return causes


def _traffic(plan: Plan, stage: Stage, p: Portion, *, is_backward: bool, recomputes: bool) -> Traffic:
    dense, moe = _layers(plan, stage)
    parts = [kernels.layers(p, dense, moe, is_backward=is_backward)] if stage.layers else []
    if stage.layers and is_backward and recomputes:
        parts.append(kernels.layers(p, dense, moe, is_backward=False))
    if stage.has_embedding:
        parts.append(kernels.embedding(p, is_backward=is_backward))
    if stage.has_output:
        parts.append(kernels.output(p, is_backward=is_backward))
    return Traffic(
        operations=sum(part.operations for part in parts), num_bytes=sum(part.num_bytes for part in parts)
    )


def _dispatched_bytes(plan: Plan, p: Portion, *, is_backward: bool = False) -> float:
    """Rows that a rank sends to all experts in one layer, its own included; FP8 rows carry a 4-byte scale."""
    hidden = p.model.hidden_size
    if plan.strategy.runtime.fp8_payload and not is_backward:
        return p.sent * (hidden + 4.0)
    return float(p.sent * hidden * p.element_bytes)


def _all_to_all_s(plan: Plan, stage: Stage, p: Portion, network: Network, *, is_backward: bool) -> float:
    """Rows there and back in each MoE layer; in the forward pass their counts too."""
    if p.ep == 1 or stage.expert is None:
        return 0.0
    spread = spread_of(stage.expert, "ep", network.host_size)
    hierarchical = plan.strategy.runtime.all_to_all == "hierarchical"
    num_bytes = _dispatched_bytes(plan, p, is_backward=is_backward)
    seconds = 2 * comms.all_to_all_s(num_bytes, spread, network, hierarchical=hierarchical)
    if not is_backward:
        seconds += comms.all_to_all_s(8 * p.model.num_experts, spread, network, hierarchical=hierarchical)
    return _layers(plan, stage)[1] * seconds


def _tensor_parallel_s(plan: Plan, stage: Stage, p: Portion, network: Network) -> tuple[float, float]:
    """Forward and backward collectives between TP partners, as model/ makes them."""
    if p.tp == 1:
        return 0.0, 0.0
    spread = spread_of(stage.dense, "tp", network.host_size)
    whole = p.tokens * p.model.hidden_size * p.element_bytes
    total = comms.all_reduce_s(whole, spread, network)
    gather = comms.all_gather_s(whole, spread, network)
    forward, backward = _layer_sums_s(plan, stage, p, network)
    if stage.has_embedding:
        forward += total
    if stage.has_output:
        num_chunks = kernels.chunks(p)
        chunk = 3 * 4 * p.tp * p.tokens / num_chunks
        forward += num_chunks * comms.all_gather_s(chunk, spread, network)
        backward += total
        if p.model.aggregation == "linear":
            forward += total
            backward += gather
    return forward, backward


def _layer_sums_s(plan: Plan, stage: Stage, p: Portion, network: Network) -> tuple[float, float]:
    if p.tp == 1 or not stage.layers:
        return 0.0, 0.0
    dense, moe = _layers(plan, stage)
    spread = spread_of(stage.dense, "tp", network.host_size)
    whole = p.tokens * p.model.hidden_size * p.element_bytes
    total = comms.all_reduce_s(whole, spread, network)
    gather = comms.all_gather_s(whole, spread, network)
    router = comms.all_reduce_s(p.model.num_experts * p.model.hidden_size * 4, spread, network)
    sums = dense + moe + dense + (moe if p.model.num_shared_experts else 0)  # attention, MLPs
    forward = sums * total + moe * gather
    backward = sums * total + moe * (gather + router)
    if p.model.qk_norm == "projection":
        small = 2 * (dense + moe) * comms.all_reduce_s(4 * p.tokens, spread, network)
        forward, backward = forward + small, backward + small
    elif p.model.qk_norm == "head":
        backward += 2 * (dense + moe) * comms.all_reduce_s(4 * p.model.head_dim, spread, network)
    return forward, backward
