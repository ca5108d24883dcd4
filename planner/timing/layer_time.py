"""Seconds of one micro-batch on one rank, by part of a stage: a MoE layer, a dense layer, embedding, output.

A stage is a sum of parts, and few parts differ between the plans of a search, so each is computed once
(time_model.py). Nothing overlaps here; pipeline_time puts it together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planner.counts.module_flops import ModuleCost
from planner.counts.parameters import stage_parameters
from planner.strategy.recompute import RecomputeKind
from planner.timing import collective_time
from planner.timing.collective_time import further_wait_s
from planner.timing.gemm_time import backward_s, forward_s, recomputed_s
from planner.timing.layer_collectives import (
    all_to_all_s,
    dispatched_bytes,
    num_meetings,
    recomputed_collectives_s,
    tensor_parallel_s,
)
from planner.timing.op_overhead import ModuleTraffic, part_traffic
from planner.timing.stage_cost import StageCost
from planner.topology.placement import StageContents


@dataclass(frozen=True, kw_only=True)
class PassTime:
    """Seconds of one pass of one micro-batch. parts: what it is the sum of, each some times; own_causes:
    `compute_s` by module, of a pass without parts."""

    compute_s: float
    all_to_all_s: float
    tensor_parallel_s: float
    own_causes: tuple[tuple[str, float], ...] = ()
    parts: "tuple[tuple[int, PassTime], ...]" = ()

    @property
    def communication_s(self) -> float:
        return self.all_to_all_s + self.tensor_parallel_s

    @property
    def total_s(self) -> float:
        return self.compute_s + self.communication_s

    @property
    def causes(self) -> tuple[tuple[str, float], ...]:
        """`compute_s` by module."""
        causes = dict(self.own_causes)
        for times, one in self.parts:
            for cause, seconds in one.causes:
                causes[cause] = causes.get(cause, 0.0) + times * seconds
        return tuple(causes.items())


def joined(passes: Sequence[tuple[int, PassTime]]) -> PassTime:
    """Several parts, each some times, as one pass."""
    return PassTime(
        compute_s=sum([times * one.compute_s for times, one in passes]),
        all_to_all_s=sum([times * one.all_to_all_s for times, one in passes]),
        tensor_parallel_s=sum([times * one.tensor_parallel_s for times, one in passes]),
        parts=tuple(passes),
    )


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One part of a stage: its passes, and the parameters that a rank holds of it.

    all_to_all_bytes: what leaves a rank one way in the forward pass.
    """

    forward: PassTime
    backward: PassTime
    dense_elements: int = 0
    expert_elements: int = 0
    num_tensors: int = 0
    all_to_all_bytes: float = 0.0


PARTS = ("dense", "moe", "embedding", "norm", "output", "gather", "gather back")


# What recompute repeats of the memory-bound operations of a layer, by module of op_sizes.
_RECOMPUTED = {"attention": ("norms", "rope", "copies"), "experts": ("experts",)}


def layer_cost(cost: StageCost, part: str) -> LayerCost:
    """The cost of one of PARTS as the stage's ranks would have it."""
    contents = StageContents(
        layers={"dense": (0,), "moe": (cost.plan.strategy.model.first_dense_layers,)}.get(part, ()),
        embedding=part == "embedding",
        norm=part == "norm",
        output=part == "output",
    )
    alone = replace(cost.stage, contents=contents)
    cost = replace(cost, stage=alone)
    if part in ("gather", "gather back"):
        return _gather(cost, is_backward=part == "gather back")
    p = cost.workload
    tensors = stage_parameters(cost.plan.strategy.model, alone)
    experts = sum(tensor.num_elements for tensor in tensors if tensor.is_expert)
    sends = p.ep > 1 and cost.num_layers[1] > 0
    forward, backward = _passes(cost)
    return LayerCost(
        forward=forward,
        backward=backward,
        dense_elements=sum(tensor.num_elements for tensor in tensors) - experts,
        expert_elements=experts,
        num_tensors=len(tensors),
        all_to_all_bytes=dispatched_bytes(cost.plan, p) * (p.ep - 1) / p.ep if sends else 0.0,
    )


def _gather(cost: StageCost, *, is_backward: bool) -> LayerCost:
    seconds = collective_time.all_gather_s(cost.hidden_bytes, cost.placement("tp"), cost.network)
    none = PassTime(compute_s=0.0, all_to_all_s=0.0, tensor_parallel_s=0.0)
    some = replace(none, tensor_parallel_s=seconds)
    return LayerCost(forward=none if is_backward else some, backward=some if is_backward else none)


def _passes(cost: StageCost) -> tuple[PassTime, PassTime]:
    """Forward and backward."""
    tensor_parallel = tensor_parallel_s(cost)
    dispatch = all_to_all_s(cost, is_backward=False)
    again = recomputed_collectives_s(cost)
    return (
        _pass(cost, dispatch, tensor_parallel[0], is_backward=False),
        _pass(
            cost,
            again[0] + all_to_all_s(cost, is_backward=True),
            tensor_parallel[1] + again[1],
            is_backward=True,
        ),
    )


def _pass(cost: StageCost, all_to_all: float, tensor_parallel: float, *, is_backward: bool) -> PassTime:
    alone = _compute(cost, is_backward=is_backward)
    causes = tuple((name, seconds * cost.slowdown) for name, seconds in alone)
    for_experts, for_tp = num_meetings(cost, is_backward=is_backward)
    further = 0.0
    if for_experts + for_tp and not cost.placement("ep" if for_experts else "tp").remote_peers:
        work = sum(seconds for _, seconds in alone) / (for_experts + for_tp)
        further = further_wait_s(work, cost.network)
    return PassTime(
        compute_s=sum(seconds for _, seconds in causes),
        all_to_all_s=max(0.0, all_to_all + for_experts * further),
        tensor_parallel_s=max(0.0, tensor_parallel + for_tp * further),
        own_causes=causes,
    )


def _compute(cost: StageCost, *, is_backward: bool) -> list[tuple[str, float]]:
    p, device, precision = cost.workload, cost.device, cost.precision
    causes: list[tuple[str, float]] = []
    for module in cost.modules:
        if is_backward:
            seconds = backward_s(module, p, device, precision)
            seconds += recomputed_s(module, p, device, precision, cost.recompute)
        else:
            seconds = forward_s(module, p, device, precision)
        if module.name == "head":  # its gradients are made in the forward pass (model/lm_head.py)
            seconds = 0.0 if is_backward else seconds + backward_s(module, p, device, precision)
        if seconds:
            causes.append((f"matmul: {module.name}", seconds))
    operations = 0.0
    moved: dict[str, float] = {}
    for one in _traffic(cost, is_backward=is_backward):
        operations += one.operations
        seconds = one.num_bytes / device.elementwise.at(one.operation_bytes)
        moved[one.module] = moved.get(one.module, 0.0) + seconds
    looped = 0 if device.is_cpu else _experts_one_by_one(cost.modules, precision)
    issued = (operations + (1 + is_backward) * looped) * device.operation_s
    causes += [(f"memory-bound: {module}", seconds) for module, seconds in moved.items() if seconds]
    if device.is_cpu:
        causes.append(("issuing operations", issued))
    else:
        # A GPU works while the host issues; what the host takes longer, the GPU waits.
        causes.append(("waiting for kernel launches", max(0.0, issued - sum(s for _, s in causes))))
    return causes


def _experts_one_by_one(modules: Sequence[ModuleCost], precision: str) -> int:
    """Products that a GPU is given one by one where it has no kernel for experts together, as in fp32."""
    gemms = (gemm for module in modules for gemm in module.gemms if gemm.groups > 1)
    return sum(gemm.count * gemm.groups for gemm in gemms) if precision == "fp32" else 0


def _traffic(cost: StageCost, *, is_backward: bool) -> Iterator[ModuleTraffic]:
    """What every module does, of as many layers as the stage has of a kind: one at most (layer_cost)."""
    contents, (dense, moe) = cost.stage.contents, cost.num_layers
    parts = (
        ("dense", dense),
        ("moe", moe),
        ("embedding", contents.embedding),
        ("norm", contents.norm),
        ("output", contents.output),
    )
    for part, is_here in parts:
        if not is_here:
            continue
        yield from part_traffic(cost.workload, part, is_backward=is_backward, is_fused=cost.is_fused)
        if is_backward and part in ("dense", "moe"):
            forward = part_traffic(cost.workload, part, is_backward=False, is_fused=cost.is_fused)
            yield from (one for one in forward if _is_recomputed(one.module, cost.recompute))


def _is_recomputed(module: str, recompute: RecomputeKind) -> bool:
    """The norms of a layer are counted together, so `attention` repeats the one before the MLP too."""
    return recompute == "layer" or module in _RECOMPUTED.get(recompute, ())
