"""Seconds that comparing copies of the training state adds to a step (runtime/training/replica_check.py)."""

from math import ceil

from planner.counts.replays import comparisons_per_step
from planner.hardware.catalog import Device
from planner.memory.optimizer_state import update_chunk_elements
from planner.plan.ds_config import zero_stage
from planner.plan.plan import Plan
from planner.timing import collective_time
from planner.timing.collective_time import Network, world_placement
from planner.timing.op_overhead import Traffic
from planner.timing.optimizer_time import traffic_s
from planner.timing.stage_time import HeldParameters
from planner.topology.layout import StageClass

# What a fingerprint moves beside an element itself, as int64: its place is written to fresh memory,
# multiplied, made odd, multiplied by the element and added up. Of 8 million elements each took 5.3 ns of
# processor time; by these figures it is 6.4 (2026-12-01, the catalog's kind of CPU).
_PLACE_BYTES, _FRESH_BYTES = 64, 8
# Of a chunk, with its views: 64 elements took 101 µs beside 2.6 for an addition, measured there.
_CHUNK_OPERATIONS = 18
# A bf16 weight beside its master: both read, the master rounded, the bits compared, and what differs counted.
_ROUNDED_BYTES, _ROUNDED_OPERATIONS = 20, 5


def comparisons_s(
    plan: Plan, one: StageClass, held: HeldParameters, device: Device, network: Network
) -> float:
    """On average over steps, of a rank: fingerprints of what has peers, and their all-reduces.

    Norms and routers that only TP partners share are not counted, nor are buffers.
    """
    zero, element_bytes = zero_stage(plan), plan.strategy.training.element_bytes
    chunk = update_chunk_elements(is_cpu=device.is_cpu)
    seconds = 0.0
    # Nearly all tensors are dense; experts have few large ones, of which the bytes count.
    kinds = ((held.dense, held.num_tensors, one.data), (held.experts, 1, one.edp))
    for elements, tensors, placement in kinds:
        if not elements:
            continue
        if placement.size > 1:
            copies = elements if zero else 3 * elements  # without ZeRO both moments, too
            counted = Traffic(
                operations=_CHUNK_OPERATIONS * max(tensors, ceil(copies / chunk)),
                num_bytes=(_PLACE_BYTES + element_bytes) * copies,
                fresh_bytes=_FRESH_BYTES * copies,
            )
            seconds += traffic_s(counted, 8 * min(chunk, copies / tensors), device, network)
            seconds += 2 * collective_time.all_reduce_s(8 * tensors, placement, network)
        if zero and element_bytes == 2:
            own = elements / placement.size
            rounded = Traffic(operations=_ROUNDED_OPERATIONS * tensors, num_bytes=_ROUNDED_BYTES * own)
            seconds += traffic_s(rounded, 4 * min(chunk, own / tensors), device, network)
    if one.tp.size > 1:
        seconds += 2 * collective_time.all_reduce_s(8 * held.num_tensors, one.tp, network)
    if plan.world_size > 1:
        seconds += collective_time.all_reduce_s(8, world_placement(plan, network), network)
    return comparisons_per_step(plan) * seconds
