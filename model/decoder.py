"""Decoder layers of a pipeline stage, and the sums of their routing losses and counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import Attention
from .collectives import ModelGroups
from .configuration_switchyard import SwitchyardConfig
from .document_attention import Documents
from .embedding import make_embedding
from .mlp import MLP
from .moe import MoELayer
from .norm import RMSNorm
from .recompute import RecomputeKind, RoutingReplay, checkpointed, recomputed
from .router import Routing

# B sequences, S tokens of each, D hidden, E experts


@dataclass(frozen=True, kw_only=True)
class RoutingSums:
    """Routing losses and counts, summed over this stage's MoE layers and this rank's tokens.

    Under tp this rank's share of them: the sum over the tp group counts every token once. `aux_loss` is
    Σ_sequences Σ_i f_i·P_i and `z_loss` is Σ_tokens logsumexp², both undivided and with gradient.
    """

    aux_loss: Tensor
    z_loss: Tensor
    expert_tokens: Tensor  # int64 [MoE layers here, E]: routes to each expert before any drop
    dropped: Tensor  # int64


class DecoderLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)); `layer` is its global number.

    Of transformers' class, by which a complete layer is recomputed and gradient_checkpointing_enable() finds
    it.
    """

    recomputes_attention = False
    _gradient_checkpointing_func: Callable[..., Any]

    def __init__(self, config: SwitchyardConfig, layer: int, groups: ModelGroups) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer, groups)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: MLP | MoELayer
        if config.is_dense_layer(layer):
            width = config.intermediate_size
            assert width is not None, "SwitchyardConfig asks for it where there are dense layers"
            self.mlp = MLP(config.expert, config.hidden_act, config.hidden_size, width, groups)
        else:
            self.mlp = MoELayer(config, groups)

    @property
    def attends_twice(self) -> bool:
        """Whether training computes its attention a second time."""
        return self.recomputes_attention or self.gradient_checkpointing

    def forward(
        self,
        x_BSD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: tuple[Tensor | None, bool] | Documents,
        mask_BS: Tensor | None,
        cache: Cache | None,
        replay: RoutingReplay,
    ) -> tuple[Tensor, Routing | None]:
        """`replay`: a new one for every batch of tokens."""
        attend = recomputed(self._attend) if self.recomputes_attention and self.training else self._attend
        x_BSD = x_BSD + attend(x_BSD, rotation, mask, cache)
        normed_BSD = self.post_attention_layernorm(x_BSD)
        if isinstance(self.mlp, MoELayer):
            y_BSD, routing = self.mlp(normed_BSD, mask_BS, replay)
            return x_BSD + y_BSD, routing
        return x_BSD + self.mlp(normed_BSD), None

    def _attend(
        self,
        x_BSD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: tuple[Tensor | None, bool] | Documents,
        cache: Cache | None,
    ) -> Tensor:
        return self.self_attn(self.input_layernorm(x_BSD), rotation, mask, cache)


@dataclass(frozen=True, kw_only=True)
class StageContents:
    """The modules of a pipeline stage: layers by their global number, embedding, final norm, output.

    Field for field the planner's (planner/topology/placement.py), which this package does not import.
    """

    layers: tuple[int, ...] = ()
    embedding: bool = False
    norm: bool = False
    output: bool = False


class Decoder(nn.Module):
    """What is under `model.`: the embedding, the layers by their global number, the final norm."""

    def __init__(self, config: SwitchyardConfig, groups: ModelGroups, contents: StageContents) -> None:
        super().__init__()
        if contents.embedding:
            self.embed_tokens = make_embedding(config.vocab_size, config.hidden_size, groups)
        layers = {str(layer): DecoderLayer(config, layer, groups) for layer in contents.layers}
        self.layers = nn.ModuleDict(layers)
        if contents.norm:
            self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def set_recompute(self, kind: RecomputeKind, num_layers: int | None = None) -> None:
        """What training computes a second time of these layers; `num_layers`: of so many first ones only.

        Raises:
            ValueError: for layers whose routes are DeepSpeed's, which would be decided a second time.
        """
        for index, layer in enumerate(self.layers.values()):
            assert isinstance(layer, DecoderLayer)
            what = kind if num_layers is None or index < num_layers else "none"
            layer.gradient_checkpointing = what == "layer"
            layer._gradient_checkpointing_func = checkpointed
            layer.recomputes_attention = what == "attention"
            if isinstance(layer.mlp, MoELayer):
                layer.mlp.recomputes_experts = what == "experts"
                if what == "layer":
                    layer.mlp.check_replay()


def sum_routings(routings: list[Routing], num_experts: int, device: torch.device) -> RoutingSums:
    """Zeros without gradient for a stage that has no MoE layer."""
    if not routings:
        zero = torch.zeros((), device=device)
        none = torch.zeros(0, num_experts, dtype=torch.int64, device=device)
        return RoutingSums(aux_loss=zero, z_loss=zero, expert_tokens=none, dropped=none.sum())
    return RoutingSums(
        aux_loss=torch.stack([routing.aux_loss for routing in routings]).sum(),
        z_loss=torch.stack([routing.z_loss for routing in routings]).sum(),
        expert_tokens=torch.stack([routing.expert_tokens_E for routing in routings]),
        dropped=torch.stack([routing.dropped for routing in routings]).sum(),
    )
