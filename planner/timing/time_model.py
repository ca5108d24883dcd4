"""Time model: seconds of a step of one plan, or of many plans of one model, which share what is alike.

The one engine behind `plan`, `search`, `fallback` and `audit`. What plans share is computed once: a layer for
each micro-batch and placement, a stage for each class of stages (topology.layout), a boundary likewise.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property

from planner.counts.forced_load import forced_load
from planner.counts.rank_workload import BALANCED, ExpertImbalance
from planner.counts.replays import replays_per_step
from planner.hardware.catalog import Device
from planner.plan.ds_config import bucket_elements, sums_locally, zero_stage
from planner.plan.plan import Plan
from planner.strategy.recompute import RecomputeKind
from planner.timing import collective_time, op_overhead
from planner.timing.boundary_time import Boundary, boundary_of
from planner.timing.check_time import comparisons_s
from planner.timing.collective_time import Network, network_of, slowdown, world_placement
from planner.timing.layer_time import LayerCost, joined, layer_cost
from planner.timing.optimizer_time import UpdateTime, reductions_per_step, update_time
from planner.timing.pipeline_time import Bracket, expected_step_s, step_bracket
from planner.timing.stage_cost import StageCost
from planner.timing.stage_time import HeldParameters, MicroBatchTime, StageTime
from planner.topology.layout import BoundaryClass, StageClass


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """One step of a plan: each stage's time, and of each boundary behind a stage.

    replays: micro-batches that are computed twice (runtime.replay_every), on average.
    """

    network: Network
    stages: tuple[StageTime, ...]
    boundaries: tuple[Boundary, ...]
    accumulation: int
    replays: float = 0.0

    @cached_property
    def bracket(self) -> Bracket:
        return step_bracket(self.stages, self.boundaries, self.accumulation, self.replays)

    @property
    def expected_s(self) -> float:
        return expected_step_s(self.stages, self.boundaries, self.accumulation, self.replays)


class TimeModel:
    """Times of plans that differ in degrees, micro_batch, ZeRO stage, recompute and all_to_all only, on one
    cluster."""

    def __init__(self, device: Device, imbalance: ExpertImbalance = BALANCED) -> None:
        self.device = device
        self.imbalance = imbalance
        self._networks: dict[int, Network] = {}
        self._buckets: dict[Hashable, int] = {}
        self._layers: dict[Hashable, LayerCost] = {}
        self._micro_batches: dict[Hashable, MicroBatchTime] = {}
        self._updates: dict[Hashable, UpdateTime] = {}
        self._stages: dict[Hashable, StageTime] = {}
        self._boundaries: dict[Hashable, Boundary] = {}
        self._world: dict[Hashable, tuple[float, float]] = {}

    def step(self, plan: Plan) -> StepTime:
        """The step of a plan, with as many ranks of a host at work at once as its schedule has.

        Where ranks share cores, it matters how many compute at once. One stage: all of them. Of a pipeline
        some wait while others work: what all ranks are busy for in a step, over the step as it would be with
        a core for each.
        """
        network, cores = self._network(plan), self.device.cores
        if not cores or network.host_size <= cores or len(plan.layout.order) == 1:
            return self._step(plan, network)
        alone = self._step(plan, replace(network, at_work=1.0))
        busy = sum(
            len(stage.ranks)
            * (
                (plan.batch.accumulation + alone.replays) * (time.forward.compute_s + time.backward.compute_s)
                + time.optimizer_s
                + time.gradient_reduce_s
                + time.data_s
                + time.other_s
            )
            for stage, time in zip(plan.stages, alone.stages, strict=True)
        )
        at_work = max(1.0, busy / alone.expected_s * network.host_size / plan.world_size)
        return self._step(plan, replace(network, at_work=at_work))

    def _network(self, plan: Plan) -> Network:
        if plan.host_size not in self._networks:
            self._networks[plan.host_size] = network_of(plan, self.device)
        return self._networks[plan.host_size]

    def _step(self, plan: Plan, network: Network) -> StepTime:
        layout, batch = plan.layout, plan.batch
        zero, runtime = zero_stage(plan), plan.strategy.runtime
        sequences = batch.global_batch // batch.accumulation
        own = (
            zero,
            self._bucket(plan),
            runtime.recompute,
            runtime.all_to_all,
            plan.reduce,
            batch.accumulation,
            plan.world_size,
            network.host_size,
            network.at_work,
        )
        key: Hashable
        stages = []
        for one in layout.order:
            key = (one, own, forced_load(plan, one.stage))
            time = self._stages.get(key)
            if time is None:
                time = self._stages[key] = self._stage(plan, one, network, zero)
            stages.append(time)
        boundaries = []
        for between in layout.boundaries:
            key = (between, sequences, network.host_size, network.at_work)
            crossing = self._boundaries.get(key)
            if crossing is None:
                crossing = self._boundaries[key] = self._boundary(plan, between, sequences, network)
            boundaries.append(crossing)
        return StepTime(
            network=network,
            stages=tuple(stages),
            boundaries=tuple(boundaries),
            accumulation=batch.accumulation,
            replays=replays_per_step(plan),
        )

    def _stage(self, plan: Plan, one: StageClass, network: Network, zero: int) -> StageTime:
        micro_batch = self._micro_batch(plan, one, network)
        update = self._update(plan, one, micro_batch.held, network, zero)
        norm_s, other_s = self._of_world(plan, network)
        accumulation, reductions = plan.batch.accumulation, reductions_per_step(plan)
        checks_s = comparisons_s(plan, one, micro_batch.held, self.device, network)
        return StageTime(
            micro_batch=micro_batch,
            reduce_hidden_s=reductions * _reduce_hidden_s(plan, micro_batch, update),
            all_to_all_hidden_s=_all_to_all_hidden_s(plan, micro_batch),
            gradient_reduce_s=update.gradient_reduce_s(reductions),
            optimizer_s=update.optimizer_s(reductions, accumulation if sums_locally(plan) else 0) + norm_s,
            data_s=accumulation * op_overhead.DATA_OPERATIONS * self.device.operation_s,
            other_s=other_s + checks_s,
            checks_s=checks_s,
        )

    def _micro_batch(self, plan: Plan, one: StageClass, network: Network) -> MicroBatchTime:
        sequences = plan.batch.global_batch // (plan.batch.accumulation * one.data.size)
        runtime, forced = plan.strategy.runtime, forced_load(plan, one.stage)
        key = (one.work, sequences, runtime.recompute, runtime.all_to_all, network.at_work, forced)
        found = self._micro_batches.get(key)
        if found is None:
            costs = [
                (times, self._layer(plan, one, part, (sequences, kind), network))
                for times, part, kind in _parts(plan, one)
            ]
            found = self._micro_batches[key] = MicroBatchTime(
                forward=joined([(times, cost.forward) for times, cost in costs]),
                backward=joined([(times, cost.backward) for times, cost in costs]),
                all_to_all_bytes=max((cost.all_to_all_bytes for _, cost in costs), default=0.0),
                held=HeldParameters(
                    dense=sum([times * cost.dense_elements for times, cost in costs]),
                    experts=sum([times * cost.expert_elements for times, cost in costs]),
                    num_tensors=sum([times * cost.num_tensors for times, cost in costs]),
                ),
            )
        return found

    def _layer(
        self, plan: Plan, one: StageClass, part: str, work: tuple[int, RecomputeKind], network: Network
    ) -> LayerCost:
        ep = one.ep if part in ("dense", "moe") else None  # what is in no layer has no experts
        forced = forced_load(plan, one.stage)
        kind = plan.strategy.runtime.all_to_all
        key = (part, one.tp, ep, work, kind, network.host_size, network.at_work, forced)
        found = self._layers.get(key)
        if found is None:
            cost = StageCost(
                plan=plan,
                stage=one.stage,
                device=self.device,
                network=network,
                imbalance=self.imbalance,
                recompute=work[1],
            )
            found = self._layers[key] = layer_cost(cost, part)
        return found

    def _update(
        self, plan: Plan, one: StageClass, held: HeldParameters, network: Network, zero: int
    ) -> UpdateTime:
        bucket = self._bucket(plan)
        key = (one, zero, bucket, network.at_work)
        found = self._updates.get(key)
        if found is None:
            found = self._updates[key] = update_time(
                held,
                one.data,
                one.edp,
                self.device,
                network,
                zero=zero,
                element_bytes=plan.strategy.training.element_bytes,
                bucket=bucket,
                moment_bytes=4 if plan.strategy.training.optimizer.moments == "fp32" else 2,
            )
        return found

    def _bucket(self, plan: Plan) -> int:
        parallel = plan.strategy.parallel
        key = (parallel.placement, parallel.ep, parallel.tp)
        found = self._buckets.get(key)
        if found is None:
            found = self._buckets[key] = bucket_elements(plan)
        return found

    def _of_world(self, plan: Plan, network: Network) -> tuple[float, float]:
        """Seconds of the gradient norm's collective, and of the sums of a step and other bookkeeping."""
        key = (plan.world_size, network.host_size, network.at_work)
        if key not in self._world:
            placement = world_placement(plan, network)
            other = op_overhead.OTHER_OPERATIONS * self.device.operation_s * slowdown(self.device, network)
            self._world[key] = (
                collective_time.all_reduce_s(8, placement, network),
                other + collective_time.all_reduce_s(32, placement, network),
            )
        return self._world[key]

    def _boundary(self, plan: Plan, between: BoundaryClass, sequences: int, network: Network) -> Boundary:
        key = (
            between.widths,
            between.is_on_one_host,
            sequences,
            network.host_size,
            network.at_work,
        )
        if key not in self._boundaries:
            self._boundaries[key] = boundary_of(between, sequences, plan.strategy, network)
        return self._boundaries[key]


def _reduce_hidden_s(plan: Plan, micro_batch: MicroBatchTime, update: UpdateTime) -> float:
    """Of one reduction, what the backward pass hides: while it computes and its links are free."""
    runtime, backward = plan.strategy.runtime, micro_batch.backward
    if not runtime.overlap_reduce:
        return 0.0
    taken = backward.all_to_all_s if runtime.overlap_all_to_all and plan.batch.accumulation > 1 else 0.0
    return min(update.beside_s, max(0.0, backward.compute_s - taken))


def _all_to_all_hidden_s(plan: Plan, micro_batch: MicroBatchTime) -> float:
    """Of a micro-batch's all-to-alls, what another's compute hides, each beside the same pass; one
    micro-batch has no other."""
    if not plan.strategy.runtime.overlap_all_to_all or plan.batch.accumulation == 1:
        return 0.0
    passes = (micro_batch.forward, micro_batch.backward)
    return sum([min(one.all_to_all_s, one.compute_s) for one in passes])


def _parts(plan: Plan, one: StageClass) -> list[tuple[int, str, RecomputeKind]]:
    """How often a stage has which part (layer_time.PARTS), and what of it is recomputed."""
    stage = one.stage
    gather, gather_back = _gathers(plan, one)
    found: list[tuple[int, str, RecomputeKind]] = []
    for dense, moe, kind in plan.strategy.runtime.recompute.split(one.num_dense, one.num_moe):
        found += [(dense, "dense", kind), (moe, "moe", kind)]
    found += [
        (int(stage.contents.embedding), "embedding", "none"),
        (int(stage.contents.norm), "norm", "none"),
        (int(stage.contents.output), "output", "none"),
        (gather, "gather", "none"),
        (gather_back, "gather back", "none"),
    ]
    return [part for part in found if part[0]]


def _gathers(plan: Plan, one: StageClass) -> tuple[int, int]:
    """How often TP partners gather the shares of a hidden state for a micro-batch, forward and backward.

    Shares are what crosses a boundary (stage_boundary.py): a stage that needs whole vectors gathers them, one
    that sends its own gathers their gradient. The aggregation takes shares of its input: those that it
    receives, or those that it cuts from whole vectors, whose gradient it then gathers.
    """
    if one.tp.size == 1:
        return 0, 0
    stage = one.stage
    is_linear = plan.strategy.model.aggregation == "linear"
    takes_shares = not stage.contents.embedding and not (
        stage.contents.output and not stage.layers and is_linear
    )
    cuts_shares = not stage.contents.output or (is_linear and bool(stage.layers))
    return int(takes_shares), int(cuts_shares)
