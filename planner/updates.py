"""Seconds of what a rank does once a step: reducing gradients, updating weights, gathering them again."""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from planner import comms, kernels
from planner.comms import Network, Spread, slowdown, spread_of, world_spread
from planner.ds_config import BUCKET_ELEMENTS, zero_stage
from planner.hardware import Device
from planner.kernels import Traffic
from planner.parameters import ParameterTensor, stage_parameters
from planner.placement import Stage
from planner.plan import Plan


def gradient_reduce_s(plan: Plan, stage: Stage, device: Device, network: Network) -> float:
    """DeepSpeed's reductions and ZeRO's gather of updated weights, a step.

    With the settings of planner.ds_config every bucket is an all-reduce, also under ZeRO 2 (stage_1_and_2.py:
    1545); ZeRO 2 reduces after every micro-batch, the others after the last.
    """
    held, zero = _held(plan, stage), zero_stage(plan)
    is_bf16 = plan.strategy.training.precision != "fp32"
    element = 2 if is_bf16 else 4
    seconds = 0.0
    for elements, spread in zip((held.dense, held.experts), _spreads(stage, network), strict=True):
        buckets = ceil(elements / BUCKET_ELEMENTS)
        if buckets:
            bucket = elements * element / buckets
            seconds += buckets * comms.all_reduce_s(bucket, spread, network)
    elements = held.dense + held.experts
    work = kernels.reduction(zero, held.num_tensors, elements, is_bf16=is_bf16)
    seconds += _work_s(work, elements * element, device, network)
    seconds *= plan.batch.accumulation if zero == 2 else 1
    if zero:
        for elements, spread in zip((held.dense, held.experts), _spreads(stage, network), strict=True):
            buckets = ceil(elements / BUCKET_ELEMENTS)
            if buckets:
                seconds += buckets * comms.all_gather_s(elements * element / buckets, spread, network)
    return seconds


def optimizer_s(plan: Plan, stage: Stage, device: Device, network: Network) -> float:
    """The norm over the world, clipping and AdamW on what this rank updates."""
    held, zero = _held(plan, stage), zero_stage(plan)
    data, edp = _spreads(stage, network)
    updated = held.dense + held.experts
    if zero:
        updated = ceil(held.dense / data.size) + ceil(held.experts / edp.size)
    work = kernels.update(zero, held.num_tensors, updated, is_fused=not device.is_cpu)
    norm = comms.all_reduce_s(8, world_spread(plan, network), network)
    return _work_s(work, 4 * updated, device, network) + norm


def _work_s(work: Traffic, operation_bytes: float, device: Device, network: Network) -> float:
    moved, issued = (
        work.num_bytes / device.elementwise.at(operation_bytes),
        work.operations * device.operation_s,
    )
    busy = moved + issued if device.is_cpu else max(moved, issued)
    return busy * slowdown(device, network)


@dataclass(frozen=True, kw_only=True)
class _Held:
    """Parameters of a rank: elements and tensors, dense ones and experts."""

    dense: int
    experts: int
    num_tensors: int


def _held(plan: Plan, stage: Stage) -> _Held:
    return _held_of(stage_parameters(plan.strategy.model, stage))


@lru_cache(maxsize=4096)
def _held_of(tensors: tuple[ParameterTensor, ...]) -> _Held:
    experts = sum(t.num_elements for t in tensors if t.is_expert)
    return _Held(
        dense=sum(t.num_elements for t in tensors) - experts, experts=experts, num_tensors=len(tensors)
    )


def _spreads(stage: Stage, network: Network) -> tuple[Spread, Spread]:
    data = spread_of(stage.dense, "data", network.host_size)
    edp = data if stage.expert is None else spread_of(stage.expert, "edp", network.host_size)
    return data, edp
