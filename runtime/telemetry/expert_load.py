"""Expert load of a step over the world: tokens of each expert, balance of ranks, overload of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from planner import Plan


@dataclass(frozen=True, kw_only=True)
class Overload:
    """How far the busiest expert of a layer is above the layer's mean: (most - mean) / mean; 0 is even.

    The field calls it MaxVio (Wang et al. 2024, "Auxiliary-loss-free load balancing"). mean, worst: over the
    layers, of this step. cumulative: of the worst layer, over all tokens since the attempt's first step.
    """

    mean: float
    worst: float
    cumulative: float


@dataclass(frozen=True, kw_only=True)
class ExpertLoad:
    """One step. tokens: routed to each expert by all ranks, before any drop: [MoE layers][num_experts].

    balance: mean / maximum over ranks of the tokens that their experts compute, of the worst stage; None
    where no token was routed.
    """

    tokens: Sequence[Sequence[int]]
    balance: float | None
    overload: Overload | None


class ExpertLoadMeter:
    """Sums the expert tokens of all ranks, step by step; rank 0 has the result.

    One reduction of MoE layers × num_experts + world_size integers per step (8 KiB for the reference).
    """

    def __init__(self, plan: Plan, rank: int, device: torch.device) -> None:
        model, stage = plan.strategy.model, plan.stage_of(rank)
        self._plan, self._device, self._rank = plan, device, rank
        self._shape = (model.num_hidden_layers - model.first_dense_layers, model.num_experts)
        moe_layers = [layer - model.first_dense_layers for layer in stage.layers]
        self._own_layers = [layer for layer in moe_layers if layer >= 0]
        # The ranks that compute the tokens of this rank, in the order of their blocks of experts.
        self._computed_by = () if stage.expert is None else stage.expert.group_of("ep", rank)
        self._total = torch.zeros(self._shape, dtype=torch.int64)

    def measure(self, expert_tokens: Tensor) -> ExpertLoad | None:
        """The load of a step on rank 0, None elsewhere. Collective over the world.

        Args:
            expert_tokens: of this rank, [MoE layers of its stage, num_experts].
        """
        by_expert = torch.zeros(self._shape, dtype=torch.int64, device=self._device)
        by_rank = torch.zeros(self._plan.world_size, dtype=torch.int64, device=self._device)
        if self._own_layers:
            own = expert_tokens.to(self._device, torch.int64)
            by_expert[self._own_layers] = own
            blocks = own.sum(0).view(len(self._computed_by), -1).sum(1)
            by_rank[list(self._computed_by)] = blocks
        together = torch.cat((by_expert.flatten(), by_rank))
        dist.reduce(together, dst=0)
        if self._rank != 0:
            return None
        layers, experts = self._shape
        tokens, ranks = together.cpu().split((layers * experts, self._plan.world_size))
        by_expert = tokens.view(self._shape)
        self._total += by_expert
        return ExpertLoad(
            tokens=by_expert.tolist(),
            balance=self._balance(ranks.tolist()),
            overload=overload(by_expert, self._total),
        )

    def _balance(self, tokens: Sequence[int]) -> float | None:
        found = []
        for stage in self._plan.stages:
            if stage.expert is not None:
                of_stage = [tokens[rank] for rank in stage.ranks]
                if max(of_stage) > 0:
                    found.append(sum(of_stage) / len(of_stage) / max(of_stage))
        return min(found, default=None)


def overload(step: Tensor, total: Tensor) -> Overload | None:
    """Of the tokens of a step and of all steps, both [MoE layers, num_experts]; None where there are none."""
    now, ever = _violations(step), _violations(total)
    if not len(now) or not len(ever):
        return None
    return Overload(mean=float(now.mean()), worst=float(now.max()), cumulative=float(ever.max()))


def _violations(tokens: Tensor) -> Tensor:
    """Of each layer that has tokens."""
    means = tokens.double().mean(1)
    return tokens.amax(1)[means > 0] / means[means > 0] - 1
