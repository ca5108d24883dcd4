"""Naive reimplementation of the model: loops over tokens and experts, no shared code."""

import math

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def activation(name: str, x: Tensor) -> Tensor:
    if name == "relu":
        return x.clamp(min=0)
    if name == "silu":
        return x / (1 + torch.exp(-x))
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gated(config, gate_up: Tensor, down: Tensor, x: Tensor) -> Tensor:
    inner = gate_up.shape[0] // 2
    return down @ (activation(config.hidden_act, gate_up[:inner] @ x) * (gate_up[inner:] @ x))


def expert(config, p: dict[str, Tensor], prefix: str, e: int, x: Tensor) -> Tensor:
    down = p[f"{prefix}.down_proj"][e]
    if config.expert == "swiglu":
        return gated(config, p[f"{prefix}.gate_up_proj"][e], down, x)
    return down @ activation(config.hidden_act, p[f"{prefix}.up_proj"][e] @ x)


def dense(config, p: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    up, down = p[f"{prefix}.up_proj.weight"], p[f"{prefix}.down_proj.weight"]
    if config.expert == "swiglu":
        gate = p[f"{prefix}.gate_proj.weight"]
        return (activation(config.hidden_act, x @ gate.T) * (x @ up.T)) @ down.T
    return activation(config.hidden_act, x @ up.T) @ down.T


def moe(
    config,
    p: dict[str, Tensor],
    prefix: str,
    x: Tensor,
    mask: Tensor | None,
    drops: bool = True,
    forced: Tensor | None = None,
):
    """(y, balance, z, expert_tokens, dropped) of one layer, token by token, as the definitions say."""
    num_sequences, num_tokens, _ = x.shape
    num_experts, k = config.num_experts, config.num_experts_per_tok
    normalizes = k > 1 if config.norm_topk_prob is None else config.norm_topk_prob
    y = [[torch.zeros_like(x[0, 0]) for _ in range(num_tokens)] for _ in range(num_sequences)]
    balance, z, dropped = x.new_zeros(()), x.new_zeros(()), 0
    expert_tokens = [0] * num_experts
    for b in range(num_sequences):
        valid = [t for t in range(num_tokens) if mask is None or bool(mask[b, t])]
        size = len(valid)
        if size == 0:
            continue
        chosen, scores = {}, {}
        for t in valid:
            logits = p[f"{prefix}.router.weight"] @ x[b, t]
            exp = torch.exp(logits - logits.max().detach())
            scores[t] = exp / exp.sum()
            z = z + (torch.log(exp.sum()) + logits.max().detach()) ** 2
            ranked = sorted(range(num_experts), key=lambda e: -float(scores[t][e].detach()))
            chosen[t] = ranked[:k] if forced is None else forced[b, t].tolist()
        for e in range(num_experts):
            count = sum(e in chosen[t] for t in valid)
            expert_tokens[e] += count
            mean = sum(scores[t][e] for t in valid) / size
            balance = balance + num_experts / (k * size) * count * mean
        kept = {(t, e) for t in valid for e in chosen[t]}
        if config.dispatch == "capacity" and drops:
            capacity = math.ceil(config.capacity_factor * k * size / num_experts)
            for e in range(num_experts):
                queue = sorted(
                    (t for t in valid if e in chosen[t]), key=lambda t: (-float(scores[t][e].detach()), t)
                )
                kept -= {(t, e) for t in queue[capacity:]}
        dropped += size * k - len(kept)
        for t in valid:
            total = sum(scores[t][e] for e in chosen[t])
            for e in chosen[t]:
                if (t, e) in kept:
                    gate = scores[t][e] / total if normalizes else scores[t][e]
                    y[b][t] = y[b][t] + gate * expert(config, p, f"{prefix}.experts", e, x[b, t])
    out = torch.stack([torch.stack(row) for row in y])
    if config.num_shared_experts:
        out = out + dense(config, p, f"{prefix}.shared_experts", x)
    return out, balance, z, expert_tokens, dropped


def attention(config, p: dict[str, Tensor], prefix: str, x: Tensor, mask: Tensor | None) -> Tensor:
    num_sequences, num_tokens, _ = x.shape
    size, heads, kv_heads = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    q, k, v = (x @ p[f"{prefix}.{name}_proj.weight"].T for name in "qkv")
    if config.qk_norm == "projection":
        q = rms_norm(q, p[f"{prefix}.q_norm.weight"], config.rms_norm_eps)
        k = rms_norm(k, p[f"{prefix}.k_norm.weight"], config.rms_norm_eps)
    q, k, v = (t.view(num_sequences, num_tokens, -1, size) for t in (q, k, v))
    if config.qk_norm == "head":
        q = rms_norm(q, p[f"{prefix}.q_norm.weight"], config.rms_norm_eps)
        k = rms_norm(k, p[f"{prefix}.k_norm.weight"], config.rms_norm_eps)
    outs = []
    for b in range(num_sequences):
        heads_out = []
        for h in range(heads):
            g = h // (heads // kv_heads)
            qh, kh = turned(q[b, :, h], config.rope_theta), turned(k[b, :, g], config.rope_theta)
            scores = qh @ kh.T / math.sqrt(size)
            sees = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()
            if mask is not None:
                sees = (sees & mask[b].bool()[None]) | torch.eye(num_tokens, dtype=torch.bool)
            heads_out.append(torch.softmax(scores.masked_fill(~sees, -math.inf), -1) @ v[b, :, g])
        outs.append(torch.cat(heads_out, -1))
    return torch.stack(outs) @ p[f"{prefix}.o_proj.weight"].T


def turned(x: Tensor, theta: float) -> Tensor:
    """RoPE as complex numbers: element i and i + d/2 are one number."""
    num_tokens, size = x.shape
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(num_tokens, dtype=torch.float64)[:, None] * frequencies
    pairs = torch.complex(x[:, : size // 2].double(), x[:, size // 2 :].double())
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag], -1).to(x.dtype)


def run(
    config,
    p: dict[str, Tensor],
    ids: Tensor,
    mask: Tensor | None = None,
    drops: bool = True,
    forced: Tensor | None = None,
):
    """(logits, balance, z, expert_tokens per MoE layer, dropped) of the whole model."""
    x = p["model.embed_tokens.weight"][ids]
    balance, z, expert_tokens, dropped = x.new_zeros(()), x.new_zeros(()), [], 0
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        normed = rms_norm(x, p[f"{name}.input_layernorm.weight"], config.rms_norm_eps)
        x = x + attention(config, p, f"{name}.self_attn", normed, mask)
        normed = rms_norm(x, p[f"{name}.post_attention_layernorm.weight"], config.rms_norm_eps)
        if layer < config.first_dense_layers:
            x = x + dense(config, p, f"{name}.mlp", normed)
            continue
        y, b, zz, counts, drop = moe(config, p, f"{name}.mlp", normed, mask, drops, forced)
        x, balance, z, dropped = x + y, balance + b, z + zz, dropped + drop
        expert_tokens.append(counts)
    x = rms_norm(x, p["model.norm.weight"], config.rms_norm_eps)
    if config.aggregation == "linear":
        x = x @ p["aggregation.weight"].T
    return x @ p["lm_head.weight"].T, balance, z, expert_tokens, dropped


def cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor | None) -> tuple[Tensor, int]:
    """(sum, number) over the valid tokens."""
    flat, targets = logits.flatten(0, 1), targets.flatten()
    valid = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask.flatten().bool()
    losses = torch.nn.functional.cross_entropy(flat, targets, reduction="none")
    return losses[valid].sum(), int(valid.sum())
