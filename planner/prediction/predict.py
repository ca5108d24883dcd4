"""What a plan costs before it runs: seconds by phase, throughput, what bounds it, the whole run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from planner.counts.flops import executed_flops, model_flops
from planner.counts.rank_workload import BALANCED, Load
from planner.hardware.catalog import Device, device_of
from planner.plan.plan import Plan
from planner.prediction.assumptions import assumptions, runtime_predicted
from planner.prediction.breakdown import StagePrediction, bottleneck
from planner.strategy.schema import Strategy
from planner.timing.collective_time import Network, network_of, send_s, slowdown
from planner.timing.gemm_time import rate
from planner.timing.layer_time import Parts
from planner.timing.pipeline_time import Boundary, Bracket, forward_latency_s, stage_phases, step_bracket
from planner.timing.stage_time import stage_time
from planner.topology.placement import Stage
from planner.topology.stage_boundary import chunk_sequences, load_of


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a plan is expected to do; seconds and tokens per second of the whole job.

    phases_s: of the stage that is busiest; they sum to the expected step. utilization and
    communication_share: means over ranks. mfu: model FLOPs over the peak of the ranks used; `executed`
    counts what they really compute. load: how evenly tokens are taken to reach experts.
    """

    bracket: Bracket
    runtime: str
    stages: tuple[StagePrediction, ...]
    tokens_per_step: int
    mfu: float
    executed: float
    load: Load
    forward_latency_s: float
    bottleneck: str
    device: Device
    assumptions: tuple[str, ...]

    @property
    def step_s(self) -> float:
        return self.bracket.expected_s

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_per_step / self.step_s

    @property
    def balance(self) -> float:
        return self.load.balance

    @property
    def busiest(self) -> StagePrediction:
        return max(self.stages, key=lambda stage: stage.time.micro_batch_s)

    @property
    def phases_s(self) -> Mapping[str, float]:
        return self.busiest.phases.phases_s

    @property
    def mean_phases_s(self) -> dict[str, float]:
        """Means over ranks, which sum to the step too: what plans with other stages can be held against."""
        return {
            name: self._mean([stage.phases.phases_s[name] for stage in self.stages])
            for name in self.busiest.phases.phases_s
        }

    @property
    def utilization(self) -> float:
        return self._mean([stage.utilization for stage in self.stages])

    @property
    def communication_share(self) -> float:
        return self._mean([stage.communication_share for stage in self.stages])

    @property
    def bubble_share(self) -> float:
        """Waiting for other stages, mean over ranks, of the step."""
        return self._mean([stage.phases.bubble_s / self.step_s for stage in self.stages])

    @property
    def stage_wait_share(self) -> float:
        """Waiting for other stages and handing over to them, mean over ranks, of the step."""
        return self._mean([stage.phases.share("stage_wait") for stage in self.stages])

    def _mean(self, values: list[float]) -> float:
        ranks = [stage.num_ranks for stage in self.stages]
        return sum(v * n for v, n in zip(values, ranks, strict=True)) / sum(ranks)


def predict(
    plan: Plan, device: Device | None = None, parts: Parts | None = None, load: Load = BALANCED
) -> Prediction:
    """What a plan costs on `device`; None: what hardware.yaml knows of the strategy's own.

    `parts`, which have a device and a load, save work where many plans of one model are predicted.
    """
    parts = parts or Parts(device or device_of(plan.strategy.cluster.gpu), load)
    device = parts.device
    network = shared_network(plan, parts)
    times = [stage_time(plan, stage, parts, network) for stage in plan.stages]
    boundaries = boundaries_of(plan, network)
    accumulation = plan.batch.accumulation
    bracket = step_bracket(times, boundaries, accumulation)
    phases = stage_phases(times, boundaries, accumulation, bracket.expected_s)
    transfers = [0.0, *(boundary.transfer_s for boundary in boundaries)]
    stages = tuple(
        StagePrediction(
            name=stage.name,
            num_ranks=stage.dense.size("data") * stage.dense.size("tp"),
            time=time,
            phases=phase,
            transfer_in_s=transfer,
        )
        for stage, time, phase, transfer in zip(plan.stages, times, phases, transfers, strict=True)
    )
    training = plan.strategy.training
    load = Load(imbalance=min(parts.load.imbalance, float(plan.strategy.parallel.ep)))  # as portions have it
    peak = plan.world_size * rate(device, training.precision)[0] * bracket.expected_s
    return Prediction(
        bracket=bracket,
        runtime=runtime_predicted(plan),
        stages=stages,
        tokens_per_step=training.global_batch * training.seq_length,
        mfu=model_flops(plan).total / peak,
        executed=executed_flops(plan).total / peak,
        load=load,
        forward_latency_s=forward_latency_s(times, boundaries, accumulation),
        bottleneck=bottleneck(plan, stages, bracket.expected_s),
        device=device,
        assumptions=assumptions(plan, device, load, slowdown(device, network)),
    )


def shared_network(plan: Plan, parts: Parts) -> Network:
    """The network of a plan, with how many ranks of a host are at work at once where they share its cores.

    One stage: all of them. Of a pipeline some wait while others work: what all ranks are busy for in a step,
    over the step as it would be with a core for each.
    """
    device = parts.device
    network = network_of(plan, device)
    if len(plan.stages) == 1 or not device.cores or network.host_size <= device.cores:
        return network
    alone = replace(network, at_work=1.0)
    times = [stage_time(plan, stage, parts, alone) for stage in plan.stages]
    step = step_bracket(times, boundaries_of(plan, alone), plan.batch.accumulation).expected_s
    busy = sum(
        len(stage.ranks)
        * (
            plan.batch.accumulation * (time.forward.compute_s + time.backward.compute_s)
            + time.optimizer_s
            + time.gradient_reduce_s
            + time.data_s
            + time.other_s
        )
        for stage, time in zip(plan.stages, times, strict=True)
    )
    return replace(network, at_work=max(1.0, busy / step * network.host_size / plan.world_size))


def predicted_phases(plan: Plan, rank: int, device: Device | None = None) -> dict[str, float]:
    """What telemetry keeps beside a measured step of `rank`: seconds of each phase, and step_s."""
    prediction = predict(plan, device)
    stage = prediction.stages[plan.stages.index(plan.stage_of(rank))]
    return {**stage.phases.phases_s, "step_s": prediction.step_s}


def boundaries_of(plan: Plan, network: Network) -> tuple[Boundary, ...]:
    """Hand-overs between neighbouring stages, of one micro-batch, as topology.stage_boundary cuts them."""
    sequences = plan.batch.global_batch // plan.batch.accumulation
    return tuple(
        hand_over(
            before,
            after,
            sequences,
            plan.strategy,
            network,
            same_host=is_on_one_host(before, after, network),
        )
        for before, after in pairwise(plan.stages)
    )


def hand_over(
    before: Stage, after: Stage, num_sequences: int, strategy: Strategy, network: Network, *, same_host: bool
) -> Boundary:
    """One micro-batch's hand-over. Every element crosses once; TP partners send, and get, a share each.

    The fullest rank decides. Gathering shares inside a stage that needs whole vectors is the stage's own work
    (planner.timing.layer_time).

    Args:
        num_sequences: of all ranks.
        same_host: whether one host holds all ranks of both stages.
    """
    load = load_of(before, after, num_sequences, strategy.model.hidden_size)
    element = 4 if strategy.training.precision == "fp32" else 2
    num_bytes = load.num_elements * strategy.training.seq_length * element
    transfer = send_s(num_bytes, network, same_host=same_host, messages=load.num_messages)
    for side, stage, other in (("before", before, after), ("after", after, before)):
        if not stage.layers and stage.data_parallel_size < other.data_parallel_size:
            own = num_sequences // stage.data_parallel_size
            chunks = -(-own // chunk_sequences(before, after, num_sequences))
            cut: Literal["before", "after"] = "before" if side == "before" else "after"
            return Boundary(transfer_s=transfer, num_bytes=num_bytes, chunks=chunks, cut=cut)
    return Boundary(transfer_s=transfer, num_bytes=num_bytes)


def is_on_one_host(before: Stage, after: Stage, network: Network) -> bool:
    """Whether all ranks of two stages share a host."""
    ends = [rank for stage in (before, after) for rank in (stage.dense.first_rank, stage.dense.last_rank)]
    return min(ends) // network.host_size == max(ends) // network.host_size
