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
    copies_s: of one reduction that has no peers: DeepSpeed still flattens and copies the gradients. sum_s: of
    adding one micro-batch's gradients to sums of our own (plan.ds_config sums_locally).
    """

    reduction_s: float
    copies_s: float
    gather_s: float
    update_s: float
    sum_s: float
    beside_s: float

    def gradient_reduce_s(self, reductions: int) -> float:
        """`reductions`: how often a step reduces all gradients."""
        return self.reduction_s * reductions + self.gather_s

    def optimizer_s(self, reductions: int, summations: int) -> float:
        """The update, the copies of so many reductions without peers, and so many micro-batches summed."""
        return self.copies_s * reductions + self.sum_s * summations + self.update_s


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
    for elements, placement in ((held.dense, data), (held.experts, edp)):
        if not elements or placement.size == 1:
            continue
        num_bytes, buckets = elements * element_bytes, ceil(elements / bucket)
        each = collective_time.all_reduce_s(num_bytes / buckets, placement, network)
        reduction, last = reduction + buckets * each, max(last, each)
        if zero:
            pieces = ceil(elements / BUCKET_ELEMENTS)
            gather += pieces * collective_time.all_gather_s(num_bytes / pieces, placement, network)
    elements = held.dense + held.experts
    copies = op_overhead.reduction(zero, held.num_tensors, elements, is_bf16=element_bytes == 2)
    groups = (float(held.dense), float(held.experts))
    if zero:
        groups = (float(ceil(held.dense / data.size)), float(ceil(held.experts / edp.size)))
    alone = data.size == edp.size == 1  # copies inside one GPU are no communication
    copies_s = _traffic_s(copies, elements * element_bytes, device, network)
    sums = op_overhead.summation(held.num_tensors, elements, is_bf16=element_bytes == 2)
    adam = op_overhead.update(zero, held.num_tensors, sum(groups), moment_bytes=moment_bytes)
    return UpdateTime(
        reduction_s=0.0 if alone else reduction + copies_s,
        copies_s=copies_s if alone else 0.0,
        gather_s=gather,
        update_s=_traffic_s(adam, 4 * sum(groups), device, network),
        beside_s=reduction - last,
        sum_s=_traffic_s(sums, elements * element_bytes, device, network),
    )


def _traffic_s(traffic: Traffic, operation_bytes: float, device: Device, network: Network) -> float:
    moved, issued = (
        traffic.num_bytes / device.elementwise.at(operation_bytes),
        traffic.operations * device.operation_s,
    )
    if device.fresh_bytes_per_s is not None:
        moved += traffic.fresh_bytes / device.fresh_bytes_per_s
    busy = moved + issued if device.is_cpu else max(moved, issued)
    return busy * slowdown(device, network)
