"""One layout, cut in every way: seconds and memory of each ZeRO stage, micro_batch and recompute, quickly.

The same numbers as prediction.predict and memory.rank_memory; a search asks for tens of thousands, so
whatever two of them share is worked out once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Literal

from planner.memory.rank_memory import hand_over_buffers
from planner.plan.plan import Plan
from planner.prediction.predict import hand_over, predict
from planner.search.layout_classes import Kind, Layout, layout_of
from planner.search.memory_cache import Peaks
from planner.search.search_space import Space, chosen, light_plan, micro_batches
from planner.strategy.schema import Parallel
from planner.timing import collective_time
from planner.timing.collective_time import Network, world_spread
from planner.timing.layer_time import Parts
from planner.timing.op_overhead import DATA_OPERATIONS
from planner.timing.optimizer_time import Held, reduce_and_gather_s, update_s
from planner.timing.pipeline_time import Boundary
from planner.timing.stage_time import held_of, stage_time
from planner.topology.placement import largest_data_parallel_size

Recompute = Literal["none", "layer"]
_MODES: tuple[Recompute, ...] = ("none", "layer")


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to run a layout; `parallel` holds its ZeRO stage. peak_bytes: of its fullest rank."""

    parallel: Parallel
    micro_batch: int
    recompute: Recompute
    step_s: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Busy:
    """Seconds of one micro-batch forward and backward, and both; the parameters held."""

    passes_s: tuple[float, float]
    total_s: float
    held: Held


@dataclass
class Sweep:
    """The options of many layouts of one model on one cluster."""

    space: Space
    parts: Parts
    peaks: Peaks = field(default_factory=Peaks)
    _busy: "dict[tuple[object, ...], _Busy]" = field(default_factory=dict)
    _once: dict[tuple[object, ...], tuple[float, float, float]] = field(default_factory=dict)
    _boundaries: dict[tuple[object, ...], Boundary] = field(default_factory=dict)
    _world: dict[tuple[int, int], float] = field(default_factory=dict)

    @cached_property
    def limit_bytes(self) -> int:
        strategy = self.space.strategy
        return min(strategy.cluster.gpu.memory, strategy.limits.memory_max)

    def ways(self, parallel: Parallel) -> Iterator[Option | None]:
        """Each ZeRO stage and micro_batch: without recompute where that fits, else with it, else None.

        ZeRO 2 is left out where DeepSpeed is given it for ZeRO 1 too.
        """
        training = self.space.strategy.training
        is_bf16 = training.precision != "fp32"
        sizes = micro_batches(self.space, parallel)
        layout = layout_of(light_plan(self.space, parallel, sizes[0], "none"), self.parts.device)
        by_zero = {zero: parallel.model_copy(update={"zero_stage": zero}) for zero in self.space.zero_stages}
        for micro_batch in sizes:
            accumulation = training.global_batch // (micro_batch * largest_data_parallel_size(parallel))
            handed = [hand_over_buffers(layout.plan, place, accumulation) for place in layout.fullest]
            flows: dict[Recompute, tuple[float, list[_Busy]]] = {}
            for zero, cut in by_zero.items():
                given = 2 if is_bf16 and zero == 1 and accumulation > 1 else zero
                if zero == 2 and is_bf16 and accumulation > 1:
                    continue  # ZeRO 1 stands for both
                for mode in _MODES:
                    plan = cache(partial(self._plan, layout, cut, micro_batch, mode))
                    peak = self._peak(layout, handed, plan, given, accumulation, (micro_batch, mode))
                    if peak > self.limit_bytes:
                        continue
                    if mode not in flows:
                        flows[mode] = self._flow(layout, micro_batch, accumulation, mode)
                    yield Option(
                        parallel=cut,
                        micro_batch=micro_batch,
                        recompute=mode,
                        step_s=self._step_s(layout, *flows[mode], plan, given, accumulation),
                        peak_bytes=peak,
                    )
                    break
                else:
                    yield None

    def _plan(self, layout: Layout, cut: Parallel, micro_batch: int, mode: Recompute) -> Plan:
        """`light_plan` of one way to run a layout, whose stages and hosts all ways share."""
        accumulation = layout.plan.batch.global_batch // (micro_batch * largest_data_parallel_size(cut))
        return replace(
            layout.plan,
            strategy=chosen(self.space, cut, micro_batch, mode),
            batch=replace(layout.plan.batch, micro_batch=micro_batch, accumulation=accumulation),
        )

    def _flow(
        self, layout: Layout, micro_batch: int, accumulation: int, mode: Recompute
    ) -> "tuple[float, list[_Busy]]":
        """Seconds of all micro-batches through all stages, and what each kind of stage does with one."""
        sequences = self.space.strategy.training.global_batch // accumulation
        boundaries = {meeting: self._boundary(layout, meeting, sequences) for meeting in layout.meetings}
        busy = [self._micro_batch(kind, layout, micro_batch, mode) for kind in layout.kinds]
        return _flow_s(layout, busy, boundaries, accumulation), busy

    def _step_s(
        self,
        layout: Layout,
        flow_s: float,
        busy: "list[_Busy]",
        plan: Callable[[], Plan],
        zero: int,
        accumulation: int,
    ) -> float:
        cores = self.parts.device.cores
        if cores is not None and len(layout.order) > 1 and layout.network.host_size > cores:
            # How many ranks of a pipeline are at work at once hangs on all of them: predicted one by one.
            return predict(plan(), parts=self.parts).step_s
        is_bf16 = self.space.strategy.training.precision != "fp32"
        after = max(
            self._after_s(kind, each.held, zero, accumulation, layout.network, is_bf16=is_bf16)
            for kind, each in zip(layout.kinds, busy, strict=True)
        )
        world_s = self._world_s(layout.plan, layout.network)
        return flow_s + after + world_s + accumulation * _data_s(self.parts)

    def _micro_batch(self, kind: Kind, layout: Layout, micro_batch: int, recompute: Recompute) -> "_Busy":
        """What one micro-batch asks of a kind of stage."""
        parallel = layout.plan.strategy.parallel
        scale = largest_data_parallel_size(parallel) // kind.stage.data_parallel_size
        key = (*kind.key, micro_batch * scale, recompute)
        if key not in self._busy:
            plan = self._plan(layout, parallel, micro_batch, recompute)
            found = self.parts.of(plan, kind.stage, layout.network)
            passes = (
                sum(times * part.forward.total_s for times, part in found),
                sum(times * part.backward.total_s for times, part in found),
            )
            self._busy[key] = _Busy(passes_s=passes, total_s=sum(passes), held=held_of(found))
        return self._busy[key]

    def _after_s(
        self, kind: Kind, held: Held, zero: int, accumulation: int, network: Network, *, is_bf16: bool
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
            norm = collective_time.all_reduce_s(8, spread, network)
            one = stage_time(plan, plan.stages[0], self.parts, network)
            self._world[key] = norm + one.other_s
        return self._world[key]

    def _boundary(self, layout: Layout, meeting: tuple[int, int, bool], sequences: int) -> Boundary:
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
        layout: Layout,
        handed: list[int],
        plan: Callable[[], Plan],
        zero: int,
        accumulation: int,
        work: tuple[int, Recompute],
    ) -> int:
        """Bytes of the fullest rank, or of one that is too full.

        Args:
            work: the micro-batch of the widest stage, and recompute.
        """
        most, num_stages = 0, len(layout.order)
        widest = largest_data_parallel_size(layout.plan.strategy.parallel)
        for place, buffers in zip(layout.fullest, handed, strict=True):
            kind = layout.kinds[layout.order[place]]
            stage = layout.plan.stages[place]
            state = (kind.shape, kind.data.size, kind.edp.size, zero, accumulation > 1)
            chunks = layout.num_chunks(accumulation) if stage.contents.output else 1
            doing = (kind.shape, work[0] * widest // stage.data_parallel_size, work[1], chunks)
            bytes_ = buffers + self.peaks.held(state, stage, plan)
            if bytes_ <= self.limit_bytes:
                bytes_ += self.peaks.working(doing, stage, min(accumulation, num_stages - place), plan)
            most = max(most, bytes_)
            if most > self.limit_bytes:
                break
        return most


def _flow_s(
    layout: Layout,
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


def _data_s(parts: Parts) -> float:
    return DATA_OPERATIONS * parts.device.operation_s
