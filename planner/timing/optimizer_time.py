"""Seconds of what a rank does once a step: reducing gradients, updating weights, gathering them again."""

from dataclasses import dataclass
from math import ceil

from planner.hardware.catalog import Device
from planner.plan.ds_config import BUCKET_ELEMENTS, zero_stage
from planner.plan.plan import Plan
from planner.timing import collective_time, op_overhead
from planner.timing.collective_time import Network, Spread, slowdown, spread_of, world_spread
from planner.timing.op_overhead import Traffic
from planner.topology.placement import Stage


@dataclass(frozen=True, kw_only=True)
class Held:
    """Parameters of a rank: elements and tensors, dense ones and experts."""

    dense: int
    experts: int
    num_tensors: int


def gradient_reduce_s(plan: Plan, stage: Stage, held: Held, device: Device, network: Network) -> float:
    """DeepSpeed's reductions and ZeRO's gather of updated weights, a step."""
    zero, is_bf16 = zero_stage(plan), plan.strategy.training.precision != "fp32"
    reduction, gather = reduce_and_gather_s(stage, held, device, network, zero=zero, is_bf16=is_bf16)
    return reduction * (plan.batch.accumulation if zero == 2 else 1) + gather


def reduce_and_gather_s(
    stage: Stage, held: Held, device: Device, network: Network, *, zero: int, is_bf16: bool
) -> tuple[float, float]:
    """Seconds of one reduction of all gradients, and of gathering what was updated elsewhere.

    With the settings of plan.ds_config every bucket is an all-reduce, also under ZeRO 2 (stage_1_and_2.py:
    1545); ZeRO 2 reduces after every micro-batch, the others after the last.
    """
    element = 2 if is_bf16 else 4
    reduction = gather = 0.0
    for elements, spread in zip((held.dense, held.experts), _spreads(stage, network), strict=True):
        buckets = ceil(elements / BUCKET_ELEMENTS)
        if buckets and spread.size > 1:
            bucket = elements * element / buckets
            reduction += buckets * collective_time.all_reduce_s(bucket, spread, network)
            gather += buckets * collective_time.all_gather_s(bucket, spread, network) if zero else 0.0
    elements = held.dense + held.experts
    work = op_overhead.reduction(zero, held.num_tensors, elements, is_bf16=is_bf16)
    return reduction + _work_s(work, elements * element, device, network), gather


def optimizer_s(plan: Plan, stage: Stage, held: Held, device: Device, network: Network) -> float:
    """The norm over the world, clipping and AdamW on what this rank updates."""
    norm = collective_time.all_reduce_s(8, world_spread(plan, network), network)
    return update_s(stage, held, device, network, zero=zero_stage(plan)) + norm


def update_s(stage: Stage, held: Held, device: Device, network: Network, *, zero: int) -> float:
    """Clipping and AdamW on what this rank updates, without the norm's collective."""
    data, edp = _spreads(stage, network)
    groups = (float(held.dense), float(held.experts))
    if zero:
        groups = (float(ceil(held.dense / data.size)), float(ceil(held.experts / edp.size)))
    work = op_overhead.update(zero, held.num_tensors, groups, is_fused=not device.is_cpu)
    return _work_s(work, 4 * sum(groups), device, network)


def _work_s(work: Traffic, operation_bytes: float, device: Device, network: Network) -> float:
    moved, issued = (
        work.num_bytes / device.elementwise.at(operation_bytes),
        work.operations * device.operation_s,
    )
    if device.fresh_bytes_per_s is not None:
        moved += work.fresh_bytes / device.fresh_bytes_per_s
    busy = moved + issued if device.is_cpu else max(moved, issued)
    return busy * slowdown(device, network)


def _spreads(stage: Stage, network: Network) -> tuple[Spread, Spread]:
    data = spread_of(stage.dense, "data", network.host_size)
    edp = data if stage.expert is None else spread_of(stage.expert, "edp", network.host_size)
    return data, edp
