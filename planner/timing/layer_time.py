"""Seconds of one micro-batch on one rank, by part of a stage: a MoE layer, a dense layer, embedding, output.

A stage is a sum of parts, and few parts differ between the plans of a search, so each is worked out once. Of
a stage's ranks the slowest is meant: the first of its TP partners, in the group that lies worst over hosts.
It gets what the fullest rank does under the stated load. Nothing is overlapped here; pipeline_time
puts it together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from planner.counts.module_flops import Work, stage_work
from planner.counts.parameters import stage_parameters
from planner.counts.rank_workload import BALANCED, Load, Portion, portion
from planner.hardware.catalog import Device
from planner.plan.plan import Plan
from planner.timing import collective_time, op_overhead
from planner.timing.collective_time import Network, slowdown, spread_of
from planner.timing.gemm_time import backward_s, forward_s
from planner.timing.layer_collectives import (
    all_to_all_s,
    dispatched_bytes,
    layer_sums_s,
    num_layers,
    tensor_parallel_s,
)
from planner.timing.op_overhead import Traffic
from planner.topology.placement import Stage, StageContents


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


def joined(passes: Sequence[tuple[int, Pass]]) -> Pass:
    """Several parts, each some times, as one pass."""
    causes: dict[str, float] = {}
    for times, one in passes:
        for cause, seconds in one.causes:
            causes[cause] = causes.get(cause, 0.0) + times * seconds
    return Pass(
        compute_s=sum(times * one.compute_s for times, one in passes),
        all_to_all_s=sum(times * one.all_to_all_s for times, one in passes),
        tensor_parallel_s=sum(times * one.tensor_parallel_s for times, one in passes),
        causes=tuple(causes.items()),
    )


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a stage: its passes, the parameters that a rank holds of it, what it keeps for backward.

    all_to_all_bytes: what leaves a rank one way in the forward pass.
    """

    forward: Pass
    backward: Pass
    dense_elements: int
    expert_elements: int
    num_tensors: int
    busy_s: float  # both passes
    all_to_all_bytes: float


@dataclass(frozen=True)
class Parts:
    """The parts of plans of one model, precision, device and load, each worked out when first asked for."""

    device: Device
    load: Load = BALANCED
    _known: dict[tuple[object, ...], Part] = field(default_factory=dict, compare=False, repr=False)

    def of(self, plan: Plan, stage: Stage, network: Network) -> tuple[tuple[int, Part], ...]:
        """How often a stage has which part."""
        dense, moe = num_layers(plan, stage)
        size = network.host_size
        key = (
            plan.batch.micro_batch_of(stage),
            stage.dense.size("tp"),
            spread_of(stage.dense, "tp", size),
            None if stage.expert is None else spread_of(stage.expert, "ep", size),
            size,
            network.intra_bytes_per_s,
            network.inter_bytes_per_s,
            network.at_work,
            tuple(plan.strategy.runtime.__dict__.values()),
        )
        found = []
        for times, which in ((dense, "dense"), (moe, "moe")):
            if times:
                found.append((times, self._part(plan, stage, network, which, key)))
        if stage.contents.embedding:
            found.append((1, self._part(plan, stage, network, "embedding", key)))
        if stage.contents.norm:
            found.append((1, self._part(plan, stage, network, "norm", key)))
        if stage.contents.output:
            found.append((1, self._part(plan, stage, network, "output", key)))
        for times, which in zip(_gathers(plan, stage), ("gather", "gather back"), strict=True):
            if times:
                found.append((times, self._part(plan, stage, network, which, key)))
        return tuple(found)

    def _part(self, plan: Plan, stage: Stage, network: Network, which: str, key: tuple[object, ...]) -> Part:
        key = (which, *key)
        if key not in self._known:
            layer = {"dense": (0,), "moe": (plan.strategy.model.first_dense_layers,)}.get(which, ())
            contents = StageContents(
                layers=layer,
                embedding=which == "embedding",
                norm=which == "norm",
                output=which == "output",
            )
            alone = replace(stage, contents=contents)
            if which in ("gather", "gather back"):
                self._known[key] = _gather(plan, alone, network, is_backward=which == "gather back")
            else:
                self._known[key] = _part(plan, alone, self.device, network, self.load)
        return self._known[key]


def _gathers(plan: Plan, stage: Stage) -> tuple[int, int]:
    """How often TP partners gather the shares of a hidden state for a micro-batch, forward and backward.

    Shares are what crosses a boundary (stage_boundary.py): a stage that needs whole vectors gathers them, one
    that hands its own over gathers their gradient. The aggregation takes shares of its input: those that it
    gets, or those that it cuts from whole vectors, whose gradient it then gathers.
    """
    if stage.dense.size("tp") == 1:
        return 0, 0
    here, is_linear = stage.contents, plan.strategy.model.aggregation == "linear"
    takes_shares = not here.embedding and not (here.output and not here.layers and is_linear)
    cuts_shares = not here.output or (is_linear and bool(here.layers))
    return int(takes_shares), int(cuts_shares)


def _gather(plan: Plan, stage: Stage, network: Network, *, is_backward: bool) -> Part:
    p = portion(plan, stage)
    whole = p.tokens * p.model.hidden_size * p.element_bytes
    seconds = collective_time.all_gather_s(whole, spread_of(stage.dense, "tp", network.host_size), network)
    none = Pass(compute_s=0.0, all_to_all_s=0.0, tensor_parallel_s=0.0, causes=())
    some = replace(none, tensor_parallel_s=seconds)
    return Part(
        forward=none if is_backward else some,
        backward=some if is_backward else none,
        dense_elements=0,
        expert_elements=0,
        num_tensors=0,
        busy_s=seconds,
        all_to_all_bytes=0.0,
    )


def _part(plan: Plan, stage: Stage, device: Device, network: Network, load: Load) -> Part:
    p = portion(plan, stage, load)
    works = stage_work(plan, stage, load)
    passes = [_pass(plan, stage, p, works, device, network, is_backward=b) for b in (False, True)]
    tensors = stage_parameters(plan.strategy.model, stage)
    experts = sum(tensor.num_elements for tensor in tensors if tensor.is_expert)
    sends = p.ep > 1 and num_layers(plan, stage)[1] > 0
    return Part(
        forward=passes[0],
        backward=passes[1],
        busy_s=passes[0].total_s + passes[1].total_s,
        dense_elements=sum(tensor.num_elements for tensor in tensors) - experts,
        expert_elements=experts,
        num_tensors=len(tensors),
        all_to_all_bytes=dispatched_bytes(plan, p) * (p.ep - 1) / p.ep if sends else 0.0,
    )


def _pass(
    plan: Plan,
    stage: Stage,
    p: Portion,
    works: Sequence[Work],
    device: Device,
    network: Network,
    *,
    is_backward: bool,
) -> Pass:
    recomputes = plan.strategy.runtime.recompute == "layer"
    slow = slowdown(device, network)
    causes = [
        (name, seconds * slow)
        for name, seconds in _compute(
            plan, stage, p, works, device, is_backward=is_backward, recomputes=recomputes
        )
    ]
    all_to_all = all_to_all_s(plan, stage, p, network, is_backward=False)
    tensor_parallel = tensor_parallel_s(plan, stage, p, network)[is_backward]
    if is_backward:
        again = all_to_all if recomputes else 0.0
        all_to_all = again + all_to_all_s(plan, stage, p, network, is_backward=True)
        tensor_parallel += layer_sums_s(plan, stage, p, network)[0] if recomputes else 0.0
    return Pass(
        compute_s=sum(seconds for _, seconds in causes),
        all_to_all_s=all_to_all,
        tensor_parallel_s=tensor_parallel,
        causes=tuple(causes),
    )


def _compute(
    plan: Plan,
    stage: Stage,
    p: Portion,
    works: Sequence[Work],
    device: Device,
    *,
    is_backward: bool,
    recomputes: bool,
) -> list[tuple[str, float]]:
    precision = plan.strategy.training.precision
    causes: list[tuple[str, float]] = []
    for work in works:
        if is_backward:
            again = recomputes and work.is_in_layer
            seconds = backward_s(work, p, device, precision, recomputes=again)
        else:
            seconds = forward_s(work, p, device, precision)
        if work.name == "head":  # its gradients are made in the forward pass (model/lm_head.py)
            seconds = (
                0.0 if is_backward else seconds + backward_s(work, p, device, precision, recomputes=False)
            )
        if seconds:
            causes.append((f"products: {work.name}", seconds))
    traffic = _traffic(plan, stage, p, is_backward=is_backward, recomputes=recomputes)
    moved = traffic.num_bytes / device.elementwise.at(op_overhead.operation_bytes(p.model, p.tokens))
    looped = 0 if device.is_cpu else _experts_one_by_one(works, precision)
    issued = (traffic.operations + (1 + is_backward) * looped) * device.operation_s
    causes.append(("operations that are no products", moved))
    if device.is_cpu:
        causes.append(("issuing operations", issued))
    else:
        # A GPU works while the host issues; what the host takes longer, the GPU waits.
        causes.append(("waiting for the host to issue", max(0.0, issued - sum(s for _, s in causes))))
    return causes


def _experts_one_by_one(works: Sequence[Work], precision: str) -> int:
    """Products that a GPU is given one by one where it has no kernel for experts together, as in fp32."""
    gemms = (gemm for work in works for gemm in work.gemms if gemm.groups > 1)
    return sum(gemm.count * gemm.groups for gemm in gemms) if precision == "fp32" else 0


def _traffic(plan: Plan, stage: Stage, p: Portion, *, is_backward: bool, recomputes: bool) -> Traffic:
    dense, moe = num_layers(plan, stage)
    parts = [op_overhead.layers(p, dense, moe, is_backward=is_backward)] if stage.layers else []
    if stage.layers and is_backward and recomputes:
        parts.append(op_overhead.layers(p, dense, moe, is_backward=False))
    if stage.contents.embedding:
        parts.append(op_overhead.embedding(p, is_backward=is_backward))
    if stage.contents.output:
        parts.append(op_overhead.output(p, is_backward=is_backward))
    return Traffic(
        operations=sum(part.operations for part in parts), num_bytes=sum(part.num_bytes for part in parts)
    )
