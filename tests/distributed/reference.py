"""One process running the whole model: what every layout is held against.

Plain PyTorch: the whole global batch at once, autograd, torch's own norm clipping and AdamW. It shares the
model's code with the ranks (tests/model proves that against independent formulas) and nothing else.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.modeling_switchyard import SwitchyardForCausalLM, initialize_parameters
from model.router import Router, Routing
from planner import Strategy
from runtime.build import model_config
from runtime.learning_rate import learning_rate

STEPS = 5


def tiny(**changes: Any) -> Strategy:
    """A strategy small enough for a case a second; `changes` are dotted keys with __ for dots."""
    spec: dict[str, Any] = {
        "name": "tiny",
        "cluster": {
            "hosts": 1,
            "gpus_per_host": 8,
            "gpu": "cpu",
            "links": {"intra_host": "10 Gbps", "inter_host": "10 Gbps"},
        },
        "model": {
            "num_hidden_layers": 2,
            "num_experts": 8,
            "num_experts_per_tok": 1,
            "hidden_size": 16,
            "moe_intermediate_size": 24,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": 48,
            "aggregation": "linear",
            # Wide weights: routes are clear and gradients are large enough for clipping to bite.
            "initializer_range": 0.2,
            "embedding_std": 1.0,
        },
        "parallel": {"zero_stage": 1},
        "training": {
            "precision": "fp32",
            "seq_length": 5,
            "global_batch": 16,
            "micro_batch": 1,
            "steps": STEPS,
            "warmup_steps": 2,
            "learning_rate": 3e-3,
            "min_learning_rate": 3e-4,
            "gradient_clipping": 0.5,
            "seed": 3,
        },
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        target = spec
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    return Strategy.model_validate(spec)


def tokens_of(strategy: Strategy, step: int) -> np.ndarray:
    """Global batch `step`: int64 [global_batch, seq_length + 1]."""
    training = strategy.training
    draw = np.random.default_rng([17, step])
    return draw.integers(0, strategy.model.vocab_size, (training.global_batch, training.seq_length + 1))


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a run did: by step the loss, norm, and clipped gradients; at the end parameters and moments."""

    losses: list[float]
    norms: list[float]
    gradients: list[dict[str, Tensor]]
    final: dict[tuple[str, str], Tensor]
    expert_tokens: list[Tensor]
    smallest_gap: float = 1.0  # of a routing decision: below 1e-4 rounding may flip a route


def run_reference(strategy: Strategy, masks: dict[int, np.ndarray] | None = None) -> Course:
    """`STEPS` steps of the whole model in this process.

    Args:
        masks: by step, bool [global_batch, seq_length], False where padding.
    """
    torch.set_num_threads(1)
    training = strategy.training
    model = SwitchyardForCausalLM(model_config(strategy))
    initialize_parameters(model, training.seed)
    embeddings = {"model.embed_tokens.weight"}
    kept = [p for n, p in model.named_parameters() if p.dim() < 2 or n in embeddings]
    decayed = [p for n, p in model.named_parameters() if p.dim() >= 2 and n not in embeddings]
    settings = training.optimizer
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0.0}],
        betas=settings.betas,
        eps=settings.eps,
    )
    losses, norms, gradients, expert_tokens = [], [], [], []
    gaps: list[float] = []
    for layer in model.modules():
        if isinstance(layer, Router):
            layer.register_forward_hook(lambda module, args, routing: gaps.append(_gap(routing, strategy)))
    for step in range(STEPS):
        tokens = torch.from_numpy(tokens_of(strategy, step))
        mask = None if masks is None else torch.from_numpy(masks[step])
        x, routing = model.run_layers(model.embed(tokens[:, :-1]), mask)
        entropy = model.cross_entropy(x, tokens[:, 1:], mask)
        num_tokens = tokens[:, 1:].numel() if mask is None else int(mask.sum())
        num_sequences = len(tokens) if mask is None else int(mask.any(1).sum())
        loss = entropy.sum / num_tokens
        objective = (
            loss
            + training.balance_loss * routing.balance / num_sequences
            + training.z_loss * routing.z / num_tokens
        )
        for group in adam.param_groups:
            group["lr"] = learning_rate(step + 1, training, training.steps)
        adam.zero_grad()
        objective.backward()
        limit = training.gradient_clipping or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        losses.append(loss.item())
        norms.append(norm.item())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
        expert_tokens.append(routing.expert_tokens)
        adam.step()
    final = {}
    for name, parameter in model.named_parameters():
        state = adam.state[parameter]
        final[name, "weight"] = parameter.detach().clone()
        final |= {(name, kind): state[kind] for kind in ("exp_avg", "exp_avg_sq")}
    return Course(
        losses=losses,
        norms=norms,
        gradients=gradients,
        final=final,
        expert_tokens=expert_tokens,
        smallest_gap=min(gaps),
    )


def _gap(routing: Routing, strategy: Strategy) -> float:
    """How clear the closest decision was, in probability: of a token for its k-th expert, and, with a
    capacity, of an expert for the last token of a sequence that fits."""
    shape = strategy.model
    top_k, num_experts = shape.num_experts_per_tok, shape.num_experts
    scores = routing.logits_TE.detach().softmax(-1)
    ranked = scores.sort(-1, descending=True)
    gap = 1.0
    if top_k < num_experts:
        gap = (ranked.values[:, top_k - 1] - ranked.values[:, top_k]).min().item()
    if shape.capacity_factor is not None:
        seq_length = strategy.training.seq_length
        capacity = math.ceil(shape.capacity_factor * top_k * seq_length / num_experts)
        chosen = torch.zeros_like(scores).scatter_(1, ranked.indices[:, :top_k], 1.0) * scores
        # [sequence, position, expert], the highest first: what an expert takes before and after its limit.
        rows = chosen.view(-1, seq_length, num_experts).sort(1, descending=True).values
        if capacity < seq_length:
            first, second = rows[:, capacity - 1], rows[:, capacity]
            gap = min(gap, (first - second)[second > 0].min().item() if (second > 0).any() else 1.0)
    return gap
