"""Training module of one rank: its shard of the model, with one micro-batch's loss as forward."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.collectives import gather_from_tp, split_to_tp
from model.configuration_switchyard import SwitchyardConfig
from model.decoder import StageContents, sum_routings
from model.fused_model import use_fused
from model.linear import use_float8
from model.lm_head import CrossEntropy
from model.modeling_switchyard import SwitchyardForCausalLM
from planner import Plan, Stage, Strategy
from planner.counts.head_chunk import head_chunk_tokens
from planner.strategy.training import Training
from planner.topology.stage_boundary import Interval
from runtime.data.rows import Totals
from runtime.parallel.groups import RankGroups
from runtime.parallel.kernels import fused_regions
from runtime.parallel.pipeline_autograd import recv_activations, send_activations
from runtime.parallel.pipeline_p2p import P2PChannels, make_channels
from runtime.training.micro_batch import MicroBatch


@dataclass(frozen=True, kw_only=True)
class Sums:
    """One micro-batch on this rank, detached: fp32 scalars and int64 counts; sums, not means."""

    cross_entropy: Tensor
    aux_loss: Tensor
    z_loss: Tensor
    expert_tokens: Tensor  # [MoE layers of this stage, num_experts]
    dropped_tokens: Tensor


class TrainingModel(nn.Module):
    """One micro-batch's contribution to the loss on this rank, divided by the global batch's totals.

    Gradients of these losses are *summed* over ranks and micro-batches, never averaged: the sum is the
    gradient of the global batch, however it is cut. The loss of a stage with a next stage includes a zero
    whose backward receives the activations' gradient from it.
    """

    def __init__(
        self, model: SwitchyardForCausalLM, training: Training, stage: Stage, channels: P2PChannels
    ) -> None:
        super().__init__()
        self.model = model
        self.stage, self.channels = stage, channels
        # With loss-free balancing the aux loss is reported, not minimized.
        self.aux_loss_coef = training.balance_loss if training.balance == "loss" else 0.0
        self.bias_update_speed = training.bias_update_speed if training.balance == "bias" else None
        self.z_loss_coef = training.z_loss

    def forward(self, batch: MicroBatch, totals: Totals, micro_batch: int = 0) -> tuple[Tensor, Sums]:
        """
        Args:
            totals: of the global batch.
            micro_batch: its number in the step; its receives are posted already (`channels.post_recv`).
        """
        device = batch.tokens_BS1.device
        entropies, sent = [], []
        routing = sum_routings([], self.model.config.num_experts, device)
        for chunk, (start, stop) in enumerate(self._chunks(batch.num_sequences)):
            part = batch.part(start, stop)
            x = self._enter(part.tokens_BS1[:, :-1], micro_batch, chunk)
            if self.stage.layers:
                x, routing = self.model.run_layers(x, part.mask_BS, part.positions_BS, part.forced_BSK)
            if self.stage.contents.output:
                entropies.append(self._cross_entropy(x, part.targets, part.mask_BS).sum)
            else:
                sent.append(self._send_on(x, micro_batch, chunk))
        entropy = _sum(entropies) if entropies else torch.zeros((), device=device)
        loss = entropy / totals.loss_divisor if entropies else _sum(sent)
        if self.aux_loss_coef:
            loss = loss + self.aux_loss_coef * routing.aux_loss / totals.num_sequences
        if self.z_loss_coef:
            loss = loss + self.z_loss_coef * routing.z_loss / totals.num_tokens
        sums = Sums(
            cross_entropy=entropy.detach(),
            aux_loss=routing.aux_loss.detach(),
            z_loss=routing.z_loss.detach(),
            expert_tokens=routing.expert_tokens,
            dropped_tokens=routing.dropped,
        )
        return loss, sums

    def _chunks(self, num_sequences: int) -> Sequence[Interval]:
        """The chunks of sequences; a stage with layers has one: its experts get all tokens at once."""
        channels = [c for c in (self.channels.incoming, self.channels.outgoing) if c is not None]
        return channels[0].chunks if channels else [(0, num_sequences)]

    def _enter(self, ids_BS: Tensor, micro_batch: int, chunk: int) -> Tensor:
        """The input of the stage's first module: full vectors, or this rank's columns where an output without
        layers takes those."""
        channel = self.channels.incoming
        if channel is None:
            return self.model.embed(ids_BS)
        x_BSC = recv_activations(channel, micro_batch, chunk)
        if not self.stage.layers:
            return x_BSC
        groups = self.model.groups
        return gather_from_tp(x_BSC, self.model.config.hidden_size, groups.tp, dim=-1)

    def _send_on(self, x_BSD: Tensor, micro_batch: int, chunk: int) -> Tensor:
        """Zero, with the next stage's gradient; TP ranks send a share of the columns each."""
        channel, groups = self.channels.outgoing, self.model.groups
        assert channel is not None, f"stage {self.stage.name} has neither an output nor a next stage"
        if self.stage.contents.norm:
            x_BSD = self.model.normalize(x_BSD)
        return send_activations(split_to_tp(x_BSD, groups.tp, dim=-1), channel, micro_batch, chunk)

    def _cross_entropy(self, x: Tensor, targets_BS: Tensor, mask_BS: Tensor | None) -> CrossEntropy:
        if self.stage.contents.norm:
            return self.model.cross_entropy(x, targets_BS, mask_BS)
        return self.model.cross_entropy_of_share(x, targets_BS, mask_BS)


def model_config(strategy: Strategy) -> SwitchyardConfig:
    """The strategy's model section as a Hugging Face config."""
    return SwitchyardConfig(
        **strategy.model.model_dump(exclude={"init_from"}),
        max_position_embeddings=strategy.training.seq_length,
        router_bias=strategy.training.balance == "bias",
    )


def make_shard(strategy: Strategy, groups: RankGroups) -> SwitchyardForCausalLM:
    """This rank's part of the model. On torch's meta device it has shapes and no values."""
    return SwitchyardForCausalLM(
        model_config(strategy),
        groups=groups.model,
        contents=StageContents(**vars(groups.stage.contents)),
    )


def build_model(plan: Plan, groups: RankGroups, device: torch.device) -> TrainingModel:
    """This rank's shard, drawn by (seed, name, expert) so that every layout starts from the same model."""
    strategy, stage = plan.strategy, groups.stage
    # The constructor draws by (torch's seed, name, expert).
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(strategy.training.seed)
        model = make_shard(strategy, groups)
    model.head_chunk_tokens = head_chunk_tokens(strategy, stage.dense.size("tp"))
    if strategy.training.precision == "fp8":
        use_float8(model)
    use_fused(model, fused_regions(plan))
    recompute = strategy.runtime.recompute
    model.model.set_recompute(recompute.kind, recompute.layers)
    channels = make_channels(plan, groups, device)
    return TrainingModel(model, strategy.training, stage, channels).to(device)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return terms[0] if len(terms) == 1 else torch.stack(list(terms)).sum()
