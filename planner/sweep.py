"""One layout, cut in every way: seconds and memory of each ZeRO stage, micro_batch and recompute, quickly.

The same numbers as planner.predict and, for memory, an estimate within some 15 %; a search asks for tens of
thousands of them, so whatever two of them share is worked out once.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from math import ceil
from typing import Literal

from planner import comms
from planner.candidates import Space, light_plan, micro_batches
from planner.comms import Network, Spread, network_of, spread_of, world_spread
from planner.ds_config import BUCKET_ELEMENTS
from planner.kernels import DATA_OPERATIONS
from planner.memory import CPU_OVERHEAD_BYTES, GPU_OVERHEAD_BYTES, hand_over_buffers
from planner.parts import Parts
from planner.placement import Stage, largest_data_parallel_size
from planner.plan import Plan
from planner.predict import hand_over, is_on_one_host, predict
from planner.schedule import Boundary
from planner.state import bytes_per_parameter
from planner.strategy import Parallel
from planner.timing import held_of, stage_time
from planner.updates import Held, reduce_and_gather_s, update_s

Recompute = Literal["none", "layer"]
_MODES: tuple[Recompute, ...] = ("none", "layer")
# An estimate of memory this far from the limit decides; nearer ones are to be worked out to the byte.
SURE_BELOW, SURE_ABOVE = 0.75, 1.3
_MARGIN_BYTES = 300_000_000  # logits, rows in flight


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to run a layout; `parallel` holds its ZeRO stage. peak_bytes: estimated."""

    parallel: Parallel
    micro_batch: int
    recompute: Recompute
    step_s: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Stages that are alike: what they hold, how their groups lie."""

    stage: Stage
    key: tuple[object, ...]
    data: Spread
    edp: Spread


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What all ways to run a layout share.

    kinds: its different stages. order: which of them each stage is. fullest: of stages in a row that are
    alike the first, which has most micro-batches in flight. meetings: the kinds on both sides of a boundary,
    whether one host holds both stages, and how many boundaries are so.
    """

    plan: Plan
    network: Network
    kinds: tuple[_Kind, ...]
    order: tuple[int, ...]
    fullest: tuple[int, ...]
    meetings: dict[tuple[int, int, bool], int]


@dataclass(frozen=True, kw_only=True)
class _Busy:
    """Seconds of one micro-batch forward and backward, and both; bytes kept of it; the parameters held."""

    passes_s: tuple[float, float]
    total_s: float
    kept_bytes: int
    held: Held


@dataclass
class Sweep:
    """The options of many layouts of one model on one cluster."""

    space: Space
    parts: Parts
    _busy: "dict[tuple[object, ...], _Busy]" = field(default_factory=dict)
    _once: dict[tuple[object, ...], tuple[float, float, float]] = field(default_factory=dict)
    _boundaries: dict[tuple[object, ...], Boundary] = field(default_factory=dict)
    _world: dict[tuple[int, int], float] = field(default_factory=dict)

    @property
    def limit_bytes(self) -> int:
        strategy = self.space.strategy
        return min(strategy.cluster.gpu.memory, strategy.limits.memory_max)

    def options(self, parallel: Parallel) -> Iterator[Option]:
        """Every ZeRO stage and micro_batch, and recompute where it is not sure to fit without. ZeRO 2 is left
        out where DeepSpeed is given it for ZeRO 1 too."""
        training = self.space.strategy.training
        is_bf16 = training.precision != "fp32"
        sizes = micro_batches(self.space, parallel)
        layout = self._layout(light_plan(self.space, parallel, sizes[0], "none"))
        plan, network, kinds, order = layout.plan, layout.network, layout.kinds, layout.order
        widest = largest_data_parallel_size(parallel)
        world_s = self._world_s(plan, network)
        # How many ranks of a pipeline are at work at once hangs on all of them: predicted one by one.
        cores = self.parts.device.cores
        shares_cores = cores is not None and len(order) > 1 and network.host_size > cores
        by_zero = {zero: parallel.model_copy(update={"zero_stage": zero}) for zero in self.space.zero_stages}
        for micro_batch in sizes:
            sequences = micro_batch * widest
            accumulation = training.global_batch // sequences
            boundaries = {meeting: self._boundary(layout, meeting, sequences) for meeting in layout.meetings}
            handed = [hand_over_buffers(plan, place, accumulation) for place in layout.fullest]
            fits_surely = False
            for mode in _MODES:
                if fits_surely:
                    break  # nothing to be won by computing again
                fits_surely = True
                busy = [self._micro_batch(kind, plan, network, micro_batch, mode) for kind in kinds]
                flow_s = _flow_s(layout, busy, boundaries, accumulation)
                for zero, cut in by_zero.items():
                    given = 2 if is_bf16 and zero == 1 and accumulation > 1 else zero
                    if zero == 2 and is_bf16 and accumulation > 1:
                        continue  # ZeRO 1 stands for both
                    after = max(
                        self._after_s(kind, each.held, given, accumulation, network, is_bf16=is_bf16)
                        for kind, each in zip(kinds, busy, strict=True)
                    )
                    bookkeeping = world_s + accumulation * _data_s(self.parts)
                    peak = self._peak(layout, busy, handed, given, accumulation, mode)
                    fits_surely = fits_surely and peak < SURE_BELOW * self.limit_bytes
                    step_s = flow_s + after + bookkeeping
                    if shares_cores:
                        alike = light_plan(self.space, cut, micro_batch, mode)
                        step_s = predict(alike, parts=self.parts).step_s
                    yield Option(
                        parallel=cut,
                        micro_batch=micro_batch,
                        recompute=mode,
                        step_s=step_s,
                        peak_bytes=peak,
                    )

    def _layout(self, plan: Plan) -> _Layout:
        network = network_of(plan, self.parts.device)
        kinds: list[_Kind] = []
        order: list[int] = []
        seen: dict[tuple[object, ...], int] = {}
        model, size = plan.strategy.model, network.host_size
        for stage in plan.stages:
            dense = sum(layer < model.first_dense_layers for layer in stage.layers)
            ep = None if stage.expert is None else spread_of(stage.expert, "ep", size)
            data = spread_of(stage.dense, "data", size)
            edp = data if stage.expert is None else spread_of(stage.expert, "edp", size)
            tp = spread_of(stage.dense, "tp", size)
            ends = (stage.has_embedding, stage.has_norm, stage.has_output)
            key = (dense, len(stage.layers), *ends, tp, ep, size)
            full = (*key, data, edp)
            if full not in seen:
                seen[full] = len(kinds)
                kinds.append(_Kind(stage=stage, key=key, data=data, edp=edp))
            order.append(seen[full])
        together = (is_on_one_host(*pair, network) for pair in pairwise(plan.stages))
        return _Layout(
            plan=plan,
            network=network,
            kinds=tuple(kinds),
            order=tuple(order),
            fullest=tuple(i for i, which in enumerate(order) if not i or which != order[i - 1]),
            meetings=Counter((*pair, one) for pair, one in zip(pairwise(order), together, strict=True)),
        )

    def _micro_batch(
        self, kind: _Kind, plan: Plan, network: Network, micro_batch: int, recompute: Recompute
    ) -> "_Busy":
        """What one micro-batch asks of a kind of stage."""
        scale = largest_data_parallel_size(plan.strategy.parallel) // kind.stage.data_parallel_size
        key = (*kind.key, micro_batch * scale, recompute)
        if key not in self._busy:
            other = light_plan(self.space, plan.strategy.parallel, micro_batch, recompute)
            found = self.parts.of(other, kind.stage, network)
            passes = (
                sum(times * part.forward.total_s for times, part in found),
                sum(times * part.backward.total_s for times, part in found),
            )
            kept = sum(times * part.kept_bytes for times, part in found)
            self._busy[key] = _Busy(
                passes_s=passes, total_s=sum(passes), kept_bytes=kept, held=held_of(found)
            )
        return self._busy[key]

    def _after_s(
        self, kind: _Kind, held: Held, zero: int, accumulation: int, network: Network, *, is_bf16: bool
    ) -> float:
        key = (kind.data, kind.edp, held.dense, held.experts, zero, network.host_size)
        if key not in self._once:
            device = self.parts.device
            reduction, gather = reduce_and_gather_s(
                kind.stage, held, device, network, zero=zero, is_bf16=is_bf16
            )
            self._once[key] = (
                reduction,
                gather,
                update_s(kind.stage, held, device, network, zero=zero),
            )
        reduction, gather, update = self._once[key]
        return reduction * (accumulation if zero == 2 else 1) + gather + update

    def _world_s(self, plan: Plan, network: Network) -> float:
        """The norm's collective, the sums of a step and other bookkeeping."""
        key = (plan.world_size, network.host_size)
        if key not in self._world:
            spread = world_spread(plan, network)
            norm = comms.all_reduce_s(8, spread, network)
            one = stage_time(plan, plan.stages[0], self.parts, network)
            self._world[key] = norm + one.other_s
        return self._world[key]

    def _boundary(self, layout: _Layout, meeting: tuple[int, int, bool], sequences: int) -> Boundary:
        """What crosses between two kinds of stages hangs on their widths, not on their numbers of layers."""
        before, after = (layout.kinds[i].stage for i in meeting[:2])
        widths = (before.dense.sizes, not before.layers, after.dense.sizes, not after.layers)
        key = (*widths, meeting[2], sequences, layout.network.host_size)
        if key not in self._boundaries:
            self._boundaries[key] = hand_over(
                before, after, sequences, self.space.strategy, layout.network, same_host=meeting[2]
            )
        return self._boundaries[key]

    def _peak(
        self,
        layout: _Layout,
        busy: "list[_Busy]",
        handed: list[int],
        zero: int,
        accumulation: int,
        recompute: Recompute,
    ) -> int:
        """State, activations in flight and handed over, buckets, of the fullest stage."""
        precision = self.space.strategy.training.precision
        most, last = 0.0, len(layout.order)
        for i, buffers in zip(layout.fullest, handed, strict=True):
            kind, work = layout.kinds[layout.order[i]], busy[layout.order[i]]
            kept, held = work.kept_bytes, work.held
            state = held.dense * _state_bytes(precision, zero, kind.data.size)
            state += held.experts * _state_bytes(precision, zero, kind.edp.size) + buffers
            num_layers = len(kind.stage.layers)
            flight = min(accumulation, last - i)
            if recompute == "layer" and num_layers:
                most = max(most, state + kept / num_layers * (1 + 0.1 * num_layers * flight))
            else:
                most = max(most, state + kept * flight)
        element = 4 if precision == "fp32" else 2
        elements = min(BUCKET_ELEMENTS, max(each.held.dense + each.held.experts for each in busy))
        overhead = (
            CPU_OVERHEAD_BYTES if self.space.strategy.cluster.gpu.is_cpu else GPU_OVERHEAD_BYTES
        ) + _MARGIN_BYTES
        return ceil(most + overhead + 2 * element * elements)


def _flow_s(
    layout: _Layout,
    busy: "list[_Busy]",
    boundaries: dict[tuple[int, int, bool], Boundary],
    accumulation: int,
) -> float:
    """All micro-batches through all stages and back; what chunks hide of a hand-over is left out."""
    ways = [busy[i].total_s for i in layout.order]
    handed_s = widest_s = 0.0
    for meeting, times in layout.meetings.items():
        boundary = boundaries[meeting]
        hidden = 0.0
        if boundary.cut is not None:
            passes = busy[meeting[0 if boundary.cut == "before" else 1]].passes_s
            hidden = sum(boundary.hidden_s(one) for one in passes)
        handed_s += times * (boundary.both_ways_s - hidden)
        widest_s = max(widest_s, boundary.transfer_s)
    return sum(ways) + handed_s + (accumulation - 1) * max(*ways, widest_s)


@lru_cache(maxsize=4096)
def _state_bytes(precision: Literal["fp32", "bf16", "fp8"], zero: int, ranks: int) -> float:
    return bytes_per_parameter(precision, zero).total(ranks)


def _data_s(parts: Parts) -> float:
    return DATA_OPERATIONS * parts.device.operation_s
