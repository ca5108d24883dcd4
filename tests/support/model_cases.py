"""Small models of every kind for tests, with weights that keep routing decisions clear of ties."""

import torch
from torch import Tensor

from model import SwitchyardConfig, SwitchyardForCausalLM

BASE = {
    "num_hidden_layers": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "hidden_size": 16,
    "moe_intermediate_size": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 33,
    "initializer_range": 0.25,
}

KINDS = {
    "mlp_top1": {"num_experts_per_tok": 1},
    "swiglu_top2": {"expert": "swiglu", "aggregation": "linear"},
    "top3_shared_dense": {
        "num_experts_per_tok": 3,
        "num_experts": 8,
        "num_shared_experts": 2,
        "first_dense_layers": 1,
        "intermediate_size": 10,
        "expert": "swiglu",
        "qk_norm": "head",
    },
    "all_experts": {"num_experts_per_tok": 4, "hidden_act": "gelu", "qk_norm": "projection"},
    "top1_normalized": {"num_experts_per_tok": 1, "norm_topk_prob": True, "hidden_act": "relu"},
    "top2_raw_odd_sizes": {
        "norm_topk_prob": False,
        "hidden_size": 18,
        "moe_intermediate_size": 7,
        "num_shared_experts": 1,
        "num_experts": 6,
        "head_dim": 6,
        "aggregation": "linear",
    },
    "capacity": {"dispatch": "capacity", "capacity_factor": 0.75, "num_key_value_heads": 4},
}


def config_of(**changes) -> SwitchyardConfig:
    return SwitchyardConfig(**{**BASE, **changes})


def make_model(
    config: SwitchyardConfig, dtype: torch.dtype = torch.float32, **parts
) -> SwitchyardForCausalLM:
    """Seed 5, with norms that are not 1 and routers whose scores differ."""
    model = SwitchyardForCausalLM(config, **parts)
    from model.initialization import initialize_parameters

    initialize_parameters(model, 5)
    shards = model.shards()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                whole = torch.linspace(0.5, 1.5, shards[name].global_shape[0])
                start = shards[name].offsets[0]
                parameter.copy_(whole[start : start + len(parameter)])
            if name.endswith("router.weight"):
                parameter.mul_(4)
    return model.to(dtype)


def parameters_of(model: SwitchyardForCausalLM) -> dict[str, Tensor]:
    """Copies with gradient, for the naive model."""
    return {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}


def tokens(num_sequences: int, num_tokens: int, vocab_size: int = 33, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(inputs, targets). No token follows itself: a sequence that starts so has two equal hidden states,
    whose routes tie exactly, and then rounding decides."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab_size, (num_sequences, num_tokens + 1), generator=generator)
    for t in range(1, num_tokens + 1):
        ids[:, t] += ids[:, t] == ids[:, t - 1]
    ids %= vocab_size
    return ids[:, :-1], ids[:, 1:]


def padding(num_sequences: int, num_tokens: int) -> Tensor:
    """A full sequence, one padded on the right, one on the left, one that is all padding, one with a hole."""
    mask = torch.ones(num_sequences, num_tokens, dtype=torch.bool)
    for b in range(num_sequences):
        if b % 5 == 1:
            mask[b, num_tokens // 2 :] = False
        elif b % 5 == 2:
            mask[b, : num_tokens // 3 + 1] = False
        elif b % 5 == 3:
            mask[b] = False
        elif b % 5 == 4:
            mask[b, num_tokens // 2] = False
    return mask


def relative(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖."""
    a, b = a.detach(), b.detach()
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-300))
