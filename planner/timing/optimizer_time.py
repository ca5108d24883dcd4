"""Seconds of what a rank does once a step: reducing gradients, updating weights, gathering them again."""

from dataclasses import dataclass
from math import ceil

from planner.hardware.catalog import Device
from planner.plan.ds_config import BUCKET_ELEMENTS
from planner.plan.plan import Plan
from planner.timing import collective_time, op_overhead
from planner.timing.collective_time import Network, slowdown
from planner.timing.op_overhead import Traffic
from planner.timing.stage_time import HeldParameters
from planner.topology.group_placement import GroupPlacement


@dataclass(frozen=True, kw_only=True)
class UpdateTime:
    """Seconds of one reduction of all gradients, of gathering what was updated elsewhere, and of clipping
    and AdamW on what a rank updates, without the norm's collective.

    beside_s: of one reduction, what may run beside backward: all buckets but the last one.
    added_s: of adding one micro-batch's gradients without peers to ZeRO 2's fp32 partition. sum_s: of adding
    all of one micro-batch's to sums of our own (plan.ds_config sums_locally), which they then are.
    """

    reduction_s: float
    added_s: float
    gather_s: float
    update_s: float
    sum_s: float
    beside_s: float

    def gradient_reduce_s(self, reductions: int) -> float:
        """`reductions`: how often a step reduces all gradients."""
        return self.reduction_s * reductions + self.gather_s

    def optimizer_s(self, reductions: int, summations: int) -> float:
        """The update, and so many micro-batches summed, or else as many as are reduced added."""
        return (self.sum_s * summations or self.added_s * reductions) + self.update_s


def reductions_per_step(plan: Plan) -> int:
    """How often all gradients are reduced."""
    return plan.batch.accumulation if plan.reduce == "every_micro_batch" else 1


def update_time(
    held: HeldParameters,
    data: GroupPlacement,
    edp: GroupPlacement,
    device: Device,
    network: Network,
    *,
    zero: int,
    element_bytes: int,
    bucket: int,
    moment_bytes: int = 4,
) -> UpdateTime:
    """What follows backward on a rank, with the settings of plan.ds_config.

    Every bucket is an all-reduce, also under ZeRO 2 (stage_1_and_2.py:1545).

    Args:
        data, edp: the groups that share dense parameters, and experts.
        element_bytes: of a weight.
        bucket: elements of the reduction bucket (plan.ds_config).
        moment_bytes: of an element of one of AdamW's moments.
    """
    reduction = gather = last = 0.0
    reduced = 0
    for elements, placement in ((held.dense, data), (held.experts, edp)):
        if not elements or placement.size == 1:
            continue
        reduced += elements
        num_bytes, buckets = elements * element_bytes, ceil(elements / bucket)
        each = collective_time.all_reduce_s(num_bytes / buckets, placement, network)
        reduction, last = reduction + buckets * each, max(last, each)
        if zero:
            pieces = ceil(elements / BUCKET_ELEMENTS)
            gather += pieces * collective_time.all_gather_s(num_bytes / pieces, placement, network)
    elements, is_bf16 = held.dense + held.experts, element_bytes == 2
    groups = (float(held.dense), float(held.experts))
    if zero:
        groups = (float(ceil(held.dense / data.size)), float(ceil(held.experts / edp.size)))
    copies_s = 0.0
    if reduced:
        copies = op_overhead.reduction(zero, held.num_tensors, reduced, is_bf16=is_bf16)
        copies_s = traffic_s(copies, reduced * element_bytes, device, network)
    added_s, alone = 0.0, elements - reduced
    if alone and zero == 2 and is_bf16:
        added = op_overhead.summation(held.num_tensors, alone, is_bf16=True)
        added_s = traffic_s(added, alone * element_bytes, device, network)
    sums = op_overhead.summation(held.num_tensors, elements, is_bf16=is_bf16)
    adam = op_overhead.update(zero, held.num_tensors, sum(groups), is_bf16=is_bf16, moment_bytes=moment_bytes)
    return UpdateTime(
        reduction_s=reduction + copies_s,
        added_s=added_s,
        gather_s=gather,
        update_s=traffic_s(adam, 4 * sum(groups), device, network),
        beside_s=reduction - last,
        sum_s=traffic_s(sums, elements * element_bytes, device, network),
    )


def traffic_s(traffic: Traffic, operation_bytes: float, device: Device, network: Network) -> float:
    """Seconds of operations that move bytes; `operation_bytes`: a usual one's."""
    moved, issued = (
        traffic.num_bytes / device.elementwise.at(operation_bytes),
        traffic.operations * device.operation_s,
    )
    if device.fresh_bytes_per_s is not None:
        moved += traffic.fresh_bytes / device.fresh_bytes_per_s
    busy = moved + issued if device.is_cpu else max(moved, issued)
    return busy * slowdown(device, network)
