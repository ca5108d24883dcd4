"""Builds this rank's part of the model, and the module whose forward is one micro-batch's loss."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.configuration_switchyard import SwitchyardConfig
from model.modeling_switchyard import SwitchyardForCausalLM
from model.router import Router
from planner import Plan, Strategy
from planner.strategy import Training
from runtime.groups import RankGroups


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a step's sums are divided by: counts over the whole global batch, known before its first backward.

    num_tokens: valid tokens; num_sequences: sequences that have one.
    """

    num_tokens: int
    num_sequences: int


@dataclass(frozen=True, kw_only=True)
class Sums:
    """One micro-batch on this rank, detached: fp32 scalars and int64 counts; sums, not means."""

    cross_entropy: Tensor
    balance: Tensor
    z: Tensor
    expert_tokens: Tensor  # [MoE layers of this stage, num_experts]
    dropped_tokens: Tensor


class TrainingModel(nn.Module):
    """The loss of one micro-batch, already divided by the global batch's totals.

    Gradients of such losses are *summed* over ranks and micro-batches, never averaged: the sum is the
    gradient of the global batch, however it is cut.
    """

    def __init__(self, model: SwitchyardForCausalLM, training: Training) -> None:
        super().__init__()
        self.model = model
        # With loss-free balancing B is reported but not minimised.
        self.balance_loss = training.balance_loss if training.balance == "loss" else 0.0
        self.bias_update_speed = training.bias_update_speed if training.balance == "bias" else None
        self.z_loss = training.z_loss

    def forward(self, tokens_BS1: Tensor, mask_BS: Tensor | None, totals: Totals) -> tuple[Tensor, Sums]:
        """
        Args:
            tokens_BS1: int64 [sequences, seq_length + 1]; position t predicts token t + 1.
            mask_BS: bool, False where a position is padding; None when all are valid.
        """
        model = self.model
        x_BSD = model.embed(tokens_BS1[:, :-1])
        x_BSD, routing = model.run_layers(x_BSD, mask_BS)
        entropy = model.cross_entropy(x_BSD, tokens_BS1[:, 1:], mask_BS)
        loss = entropy.sum / totals.num_tokens
        if self.balance_loss:
            loss = loss + self.balance_loss * routing.balance / totals.num_sequences
        if self.z_loss:
            loss = loss + self.z_loss * routing.z / totals.num_tokens
        sums = Sums(
            cross_entropy=entropy.sum.detach(),
            balance=routing.balance.detach(),
            z=routing.z.detach(),
            expert_tokens=routing.expert_tokens,
            dropped_tokens=routing.dropped,
        )
        return loss, sums

    @torch.no_grad()
    def steer_routers(self, expert_tokens: Tensor) -> None:
        """Loss-free balancing (DeepSeek-V3 report, section 2.1.2): an expert above the mean load becomes
        harder to choose in the next step, one below it easier, each by `bias_update_speed`.

        Args:
            expert_tokens: routes of the whole global batch to each expert, [MoE layers here, num_experts].
        """
        assert self.bias_update_speed is not None, "the strategy balances by loss"
        routers = [module for module in self.model.modules() if isinstance(module, Router)]
        for router, counts in zip(routers, expert_tokens.double(), strict=True):
            router.bias += self.bias_update_speed * torch.sign(counts.mean() - counts).to(router.bias)


def model_config(strategy: Strategy) -> SwitchyardConfig:
    """The strategy's model section as a Hugging Face config."""
    return SwitchyardConfig(
        **strategy.model.model_dump(exclude={"init_from"}),
        max_position_embeddings=strategy.training.seq_length,
        router_bias=strategy.training.balance == "bias",
    )


def build_model(plan: Plan, groups: RankGroups, device: torch.device) -> TrainingModel:
    """This rank's shard, drawn by (seed, name, expert) so that every layout starts from the same model."""
    strategy, stage = plan.strategy, groups.stage
    # The constructor draws by (torch's seed, name, expert).
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(strategy.training.seed)
        model = SwitchyardForCausalLM(
            model_config(strategy),
            groups=groups.model,
            layers=stage.layers,
            has_embedding=stage.has_embedding,
            has_output=stage.has_output,
        )
    return TrainingModel(model, strategy.training).to(device)
