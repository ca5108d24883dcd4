"""One stage of a plan on a device: its workload, modules and group placements, for the timing functions."""

from dataclasses import dataclass
from functools import cached_property

from planner.counts.module_flops import ModuleCost, stage_modules
from planner.counts.rank_workload import ExpertImbalance, RankWorkload, rank_workload
from planner.hardware.catalog import Device
from planner.plan.plan import Plan
from planner.strategy.recompute import RecomputeKind
from planner.timing.collective_time import Network, slowdown
from planner.topology.group_placement import GroupPlacement
from planner.topology.placement import Stage


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage's slowest rank does with one micro-batch: the first of its TP partners, in the group that
    is placed worst over hosts, with what the fullest rank gets under the stated load.

    recompute: what backward computes again in its layers, all of them alike.
    """

    plan: Plan
    stage: Stage
    device: Device
    network: Network
    imbalance: ExpertImbalance
    recompute: RecomputeKind = "none"

    @cached_property
    def workload(self) -> RankWorkload:
        return rank_workload(self.plan, self.stage, self.imbalance)

    @cached_property
    def modules(self) -> tuple[ModuleCost, ...]:
        return stage_modules(self.plan, self.stage, self.imbalance)

    @cached_property
    def num_layers(self) -> tuple[int, int]:
        """Dense ones and MoE ones."""
        return self.stage.num_layers(self.plan.strategy.model.first_dense_layers)

    @property
    def precision(self) -> str:
        return self.plan.strategy.training.precision

    @property
    def is_fused(self) -> bool:
        return self.plan.strategy.runtime.kernels == "fused"

    @cached_property
    def hidden_bytes(self) -> int:
        """A hidden state of the micro-batch."""
        p = self.workload
        return p.tokens * p.model.hidden_size * p.element_bytes

    @cached_property
    def slowdown(self) -> float:
        return slowdown(self.device, self.network)

    def placement(self, axis: str) -> GroupPlacement:
        return self.network.placement(self.stage, axis)
