"""Predicted step of a plan: seconds by phase, throughput, MFU, what bounds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from planner.counts.flops import executed_flops, model_flops
from planner.counts.forced_load import plan_load
from planner.counts.rank_workload import BALANCED, ExpertImbalance
from planner.hardware.catalog import Device, device_of
from planner.plan.plan import Plan
from planner.prediction.assumptions import assumptions, runtime_predicted
from planner.prediction.breakdown import StagePrediction, bottleneck
from planner.timing.collective_time import slowdown
from planner.timing.gemm_time import rate
from planner.timing.pipeline_time import Bracket, forward_latency_s, stage_phases
from planner.timing.time_model import TimeModel


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a plan is expected to do; seconds and tokens per second of the whole job.

    phases_s: of the stage that is busiest; they sum to the expected step. utilization and
    communication_share: means over ranks. mfu: model FLOPs over the peak of the ranks used; hfu counts what
    they really compute, recomputation included. imbalance: how evenly tokens are taken to reach experts.
    """

    bracket: Bracket
    runtime: str
    stages: tuple[StagePrediction, ...]
    tokens_per_step: int
    mfu: float
    hfu: float
    imbalance: ExpertImbalance
    forward_latency_s: float
    bottleneck: str
    device: Device
    assumptions: tuple[str, ...]
    balance_is: Literal["assumed", "counted"] = "assumed"  # counted: from runtime.force_routing

    @property
    def step_s(self) -> float:
        return self.bracket.expected_s

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_per_step / self.step_s

    @property
    def balance(self) -> float:
        return self.imbalance.balance

    @property
    def busiest(self) -> StagePrediction:
        return max(self.stages, key=lambda stage: stage.time.micro_batch.total_s)

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
    plan: Plan,
    device: Device | None = None,
    imbalance: ExpertImbalance = BALANCED,
    model: TimeModel | None = None,
) -> Prediction:
    """What a plan costs on `device`; None: what devices.yaml knows of the strategy's own.

    `model`, which has a device and an imbalance, saves time where many plans of one strategy are predicted.
    runtime.force_routing, where it is set, takes the place of the imbalance.
    """
    model = model or TimeModel(device or device_of(plan.strategy.cluster.gpu), imbalance)
    device, step = model.device, model.step(plan)
    accumulation, bracket = step.accumulation, step.bracket
    phases = stage_phases(step.stages, step.boundaries, accumulation, bracket.expected_s, step.replays)
    transfers = [0.0, *(boundary.transfer_s for boundary in step.boundaries)]
    stages = tuple(
        StagePrediction(
            name=stage.name,
            num_ranks=len(stage.ranks),
            time=time,
            phases=phase,
            transfer_in_s=transfer,
        )
        for stage, time, phase, transfer in zip(plan.stages, step.stages, phases, transfers, strict=True)
    )
    training = plan.strategy.training
    forced = plan_load(plan)
    factor = model.imbalance.factor if forced is None else forced.factor
    imbalance = ExpertImbalance(factor=min(factor, float(plan.strategy.parallel.ep)))  # as workloads have it
    peak = plan.world_size * rate(device, training.precision)[0] * bracket.expected_s
    return Prediction(
        bracket=bracket,
        runtime=runtime_predicted(plan),
        stages=stages,
        tokens_per_step=training.global_batch * training.seq_length,
        mfu=model_flops(plan).total / peak,
        hfu=executed_flops(plan).total / peak,
        imbalance=imbalance,
        forward_latency_s=forward_latency_s(step.stages, step.boundaries, accumulation),
        bottleneck=bottleneck(plan, stages, bracket.expected_s),
        device=device,
        assumptions=assumptions(plan, device, imbalance, slowdown(device, step.network)),
        balance_is="assumed" if forced is None else "counted",
    )


def predicted_phases(plan: Plan, rank: int, device: Device | None = None) -> dict[str, float]:
    """What telemetry keeps beside a measured step of `rank`: seconds of each phase, and step_s."""
    prediction = predict(plan, device)
    stage = prediction.stages[plan.stages.index(plan.stage_of(rank))]
    return {**stage.phases.phases_s, "step_s": prediction.step_s}
