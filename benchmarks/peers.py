"""The same Mixtral in other programs: transformers, DeepSpeed's MoE layer, DeepSpeed AutoEP.

Their gates can be told the experts of every token: a constant is added to the logits of those, so that the
program's own softmax and top-k choose them and gates keep their gradient.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.setting import Shape

# T tokens of this rank, D hidden, E experts, K top-k

# exp(-40) is below fp32's resolution beside 1, and bf16 still tells apart what is added to it by 1/4.
_FORCE = 40.0


class Forced:
    """What the gates of a model add to their logits, and the rows by expert that they chose last."""

    def __init__(self, num_experts: int) -> None:
        self.num_experts = num_experts
        self.added_TE: Tensor | None = None
        self.is_counting = False
        self.rows_E: list[int] = []
        self.kept = 0

    def set(self, experts_TK: Tensor) -> None:
        added = torch.zeros(len(experts_TK), self.num_experts, device=experts_TK.device)
        self.added_TE = added.scatter_(1, experts_TK, _FORCE)

    def __call__(self, logits_TE: Tensor) -> Tensor:
        return logits_TE if self.added_TE is None else logits_TE + self.added_TE.to(logits_TE.dtype)

    def count(self, experts_TK: Tensor, kept: int | None = None) -> None:
        self.rows_E = experts_TK.reshape(-1).bincount(minlength=self.num_experts).tolist()
        self.kept += experts_TK.numel() if kept is None else kept


def mixtral(shape: Shape) -> nn.Module:
    """transformers' Mixtral with grouped GEMMs for its experts and torch's attention, in fp32."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.moe_intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        num_local_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k,
        max_position_embeddings=shape.seq_length,
        tie_word_embeddings=False,
        use_cache=False,
        output_router_logits=False,
    )
    model: nn.Module = MixtralForCausalLM._from_config(
        config, attn_implementation="sdpa", experts_implementation="grouped_mm"
    )
    return model


def force_transformers(model: nn.Module, forced: Forced) -> None:
    """MixtralTopKRouter.forward of transformers 5 with forced logits; everything else stays."""
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

    def forward(self: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden_states = hidden_states.reshape(-1, self.hidden_dim)
        router_logits = forced(functional.linear(hidden_states, self.weight))
        router_probs = functional.softmax(router_logits.float(), dim=-1)
        values, indices = torch.topk(router_probs, self.top_k, dim=-1)
        values = values / values.sum(dim=-1, keepdim=True)
        if forced.is_counting:
            forced.count(indices)
        return router_logits, values, indices

    for module in model.modules():
        if isinstance(module, MixtralTopKRouter):
            module.forward = forward.__get__(module)  # type: ignore[method-assign]


def use_deepspeed_layers(
    model: nn.Module, shape: Shape, ep_size: int, capacity_factor: float | None, forced: Forced
) -> None:
    """deepspeed.moe.layer.MoE in place of every MoE block; `capacity_factor` None: nothing is dropped."""
    from deepspeed.moe import sharded_moe
    from deepspeed.moe.layer import MoE
    from transformers.models.mistral.modeling_mistral import MistralMLP

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.moe = MoE(
                shape.hidden_size,
                MistralMLP(model.config),
                num_experts=shape.num_experts,
                ep_size=ep_size,
                k=shape.top_k,
                capacity_factor=capacity_factor or 1.0,
                min_capacity=0,
                drop_tokens=capacity_factor is not None,
                use_rts=False,
                top2_2nd_expert_sampling=False,
            )

        def forward(self, hidden_states: Tensor) -> Tensor:
            output: Tensor = self.moe(hidden_states)[0]
            return output

    for layer in model.model.layers:  # type: ignore[union-attr]
        layer.mlp = Block()
    for name in ("top1gating", "top2gating", "topkgating"):
        setattr(sharded_moe, name, _forced_gating(getattr(sharded_moe, name), forced))


def _forced_gating(gating: Callable[..., Any], forced: Forced) -> Callable[..., Any]:
    """A gating function of DeepSpeed on forced logits. Experts of dropped routes are negative."""

    def run(logits: Tensor, *arguments: Any, **options: Any) -> Any:
        logits = forced(logits)
        found = gating(logits, *arguments, **options)
        if forced.is_counting:
            experts_KT = found[3]
            k = len(experts_KT)
            forced.count(logits.topk(k, -1).indices, kept=int((experts_KT >= 0).sum()))
        return found

    return run


def mend_auto_ep() -> None:
    """DeepSpeed 0.19.8 (module_inject/auto_ep_presets/base.py:326) asks transformers' registry of recorded
    outputs for a class by its name and with a default; transformers 5.23 (utils/output_capturing.py:48) takes
    a model and no default. Without this AutoEP cannot replace the blocks of a Mixtral."""
    from transformers.utils.output_capturing import _CanRecordRegistry

    def get(self: dict[str, Any], key: Any, default: Any = None) -> Any:
        name = key if isinstance(key, str) else str(key.__class__)
        found = dict.get(self, name)
        return found if found is not None else {} if default is None else default

    _CanRecordRegistry.get = get  # type: ignore[method-assign,assignment]


def force_auto_ep(model: nn.Module, forced: Forced) -> None:
    """Hooks on AutoEP's gates, which are linear layers."""
    from deepspeed.moe.ep_router import TokenChoiceTopKRouter

    def on_gate(module: nn.Module, inputs: Any, logits_TE: Tensor) -> Tensor:
        return forced(logits_TE)

    def on_router(module: nn.Module, inputs: Any, found: Any) -> None:
        if forced.is_counting:
            forced.count(found[1])

    for module in model.modules():
        if isinstance(module, TokenChoiceTopKRouter):
            module.gate.register_forward_hook(on_gate)
            module.register_forward_hook(on_router)
