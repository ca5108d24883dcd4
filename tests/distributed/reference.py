"""One process running the whole model: what every layout is held against.

Plain PyTorch: the whole global batch at once, autograd, torch's own norm clipping and AdamW. It shares the
model's code with the ranks (tests/model proves that against independent formulas) and nothing else.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.modeling_switchyard import SwitchyardForCausalLM, initialize_parameters
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
            "seq_length": 8,
            "global_batch": 16,
            "micro_batch": 1,
            "steps": STEPS,
            "warmup_steps": 2,
            "learning_rate": 1e-2,
            "min_learning_rate": 1e-3,
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
    smallest_gap: float = 1.0


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
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clipping)
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
        losses=losses, norms=norms, gradients=gradients, final=final, expert_tokens=expert_tokens
    )
