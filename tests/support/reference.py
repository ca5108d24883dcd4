"""Reference trajectory of one process with the complete model, in plain PyTorch.

Plain PyTorch: the whole global batch at once, autograd, a norm in fp64, torch's own clipping and AdamW. In
bf16 the model computes in bf16 and AdamW steps fp32 copies of the weights as they were rounded. It shares the
model's code with the ranks (tests/model proves that against independent formulas) and nothing else.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.linear import use_float8
from model.modeling_switchyard import SwitchyardForCausalLM, initialize_parameters
from model.router import Router, Routing
from planner import Strategy
from runtime.data.rows import Rows
from runtime.training.lr_schedule import learning_rate
from runtime.training.training_model import model_config
from tests.support.document_reference import count_rows, one_by_one
from tests.support.forced_oracle import experts_of

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
    """Global batch `step`: int64 [global_batch, seq_length + 1].

    No token twice in a sequence: "a a" looks the same twice to the first layer, and a capacity would hang on
    that tie.
    """
    training = strategy.training
    lots = np.random.default_rng([17, step]).random((training.global_batch, strategy.model.vocab_size))
    assert training.seq_length < strategy.model.vocab_size
    return lots.argsort(1)[:, : training.seq_length + 1]


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """What a run did: by step loss, B, Z, norm and clipped gradients; at the end parameters and moments."""

    losses: list[float]
    aux_losses: list[float]
    z_losses: list[float]
    norms: list[float]
    gradients: list[dict[str, Tensor]]  # as the optimizer gets them
    final: dict[tuple[str, str], Tensor]
    expert_tokens: list[Tensor]
    clipping: float  # the limit of the norm; 0: off
    smallest_gap: float = 1.0  # of a routing decision: below 1e-4 rounding may flip a route


class UnclearRoute(Exception):
    """A routing decision that rounding may flip."""


def run_reference(
    strategy: Strategy,
    masks: dict[int, np.ndarray] | None = None,
    clearer_than: float = 0.0,
    shake: int | None = None,
    batches: dict[int, Rows] | None = None,
) -> Trajectory:
    """`STEPS` steps of the whole model in this process.

    Args:
        masks: by step, bool [global_batch, seq_length], False where padding.
        batches: by step, other rows than `tokens_of`; every document is then a batch of its own.
        shake: changes the weights that it starts from by a rounding or so, each lot in another way.

    Raises:
        UnclearRoute: at the first routing decision that is not clearer than `clearer_than`, if that is not 0.
    """
    torch.set_num_threads(1)
    training = strategy.training
    model = SwitchyardForCausalLM(model_config(strategy))
    initialize_parameters(model, training.seed)
    if shake is not None:
        _shake(model, shake)
    masters = dict(model.named_parameters())
    is_bf16 = training.precision != "fp32"
    if training.precision == "fp8":
        use_float8(model)
    if is_bf16:
        model.bfloat16()
        masters = {n: p.detach().float().requires_grad_() for n, p in model.named_parameters()}
    embeddings = {"model.embed_tokens.weight"}
    kept = [p for n, p in masters.items() if p.dim() < 2 or n in embeddings]
    decayed = [p for n, p in masters.items() if p.dim() >= 2 and n not in embeddings]
    settings = training.optimizer
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0.0}],
        betas=settings.betas,
        eps=settings.eps,
    )
    losses, balances, zs, norms, gradients, expert_tokens = [], [], [], [], [], []
    gaps: list[float] = []

    def note_gap(router: Router, args: tuple[Any, ...], routing: Routing) -> None:
        gaps.append(_gap(routing, router.bias, args[2], strategy))
        if 0 < clearer_than >= gaps[-1]:
            raise UnclearRoute(gaps[-1])

    for layer in model.modules():
        if isinstance(layer, Router):
            layer.register_forward_hook(note_gap)
    for step in range(STEPS):
        if batches is not None:
            rows = batches[step]
            num_targets, num_tokens, num_sequences = count_rows(rows)
            entropy_sum, routing = one_by_one(model, rows)
        else:
            tokens = torch.from_numpy(tokens_of(strategy, step))
            mask = None if masks is None else torch.from_numpy(masks[step])
            forced = experts_of(strategy, step + 1)
            forced_BSK = None if forced is None else torch.tensor(forced).unflatten(0, tokens[:, 1:].shape)
            x, routing = model.run_layers(model.embed(tokens[:, :-1]), mask, forced_BSK=forced_BSK)
            entropy_sum = model.cross_entropy(x, tokens[:, 1:], mask).sum
            num_targets = num_tokens = tokens[:, 1:].numel() if mask is None else int(mask.sum())
            num_sequences = len(tokens) if mask is None else int(mask.any(1).sum())
        loss = entropy_sum / num_targets
        balance, z = routing.aux_loss / num_sequences, routing.z_loss / num_tokens
        balance_loss = training.balance_loss if training.balance == "loss" else 0.0
        objective = loss + balance_loss * balance + training.z_loss * z
        for group in adam.param_groups:
            group["lr"] = learning_rate(step + 1, training, training.steps)
        model.zero_grad()
        objective.backward()
        for name, parameter in model.named_parameters() if is_bf16 else ():
            masters[name].grad = parameter.grad.float()
        norm = _clip(masters.values(), training.gradient_clipping)
        losses.append(loss.item())
        balances.append(balance.item())
        zs.append(z.item())
        norms.append(norm.item())
        gradients.append({n: p.grad.clone() for n, p in masters.items()})
        expert_tokens.append(routing.expert_tokens)
        adam.step()
        for name, parameter in model.named_parameters() if is_bf16 else ():
            parameter.data.copy_(masters[name].data)
        if training.balance == "bias":
            _steer(model, routing.expert_tokens, training.bias_update_speed)
    final = {}
    for name, buffer in model.named_buffers():
        final[name, "weight"] = buffer.clone()
    for name, parameter in masters.items():
        state = adam.state[parameter]
        final[name, "weight"] = parameter.detach().clone()
        final |= {(name, kind): state[kind] for kind in ("exp_avg", "exp_avg_sq")}
    return Trajectory(
        losses=losses,
        aux_losses=balances,
        z_losses=zs,
        norms=norms,
        gradients=gradients,
        final=final,
        expert_tokens=expert_tokens,
        clipping=training.gradient_clipping,
        smallest_gap=min(gaps, default=1.0),
    )


def _clip(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """torch's own clipping, with a norm in fp64: its fp32 norm is off by 4e-4 at 10 M elements."""
    parameters = list(parameters)
    norms = [torch.linalg.vector_norm(p.grad, dtype=torch.float64) for p in parameters if p.grad is not None]
    norm = torch.stack(norms).norm()
    torch.nn.utils.clip_grads_with_norm_(parameters, limit or float("inf"), norm.float())
    return norm


@torch.no_grad()
def _shake(model: SwitchyardForCausalLM, lot: int) -> None:
    """By 6e-8 of each element, half of what fp32 resolves."""
    generator = torch.Generator().manual_seed(lot)
    for parameter in model.parameters():
        parameter *= 1 + 2**-24 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def _steer(model: SwitchyardForCausalLM, expert_tokens: Tensor, speed: float) -> None:
    """DeepSeek-V3: after a step, an expert above the mean load loses `speed` of bias, one below gains it."""
    routers = [layer for layer in model.modules() if isinstance(layer, Router)]
    for router, counts in zip(routers, expert_tokens.tolist(), strict=True):
        mean = sum(counts) / len(counts)
        for expert, count in enumerate(counts):
            router.bias[expert] += speed if count < mean else -speed if count > mean else 0.0


def _gap(routing: Routing, bias: Tensor | None, mask_BS: Tensor | None, strategy: Strategy) -> float:
    """How clear the closest decision was, in probability: of a token for its k-th expert, and, with a
    capacity, of an expert for the last token of a sequence that fits."""
    shape, seq_length = strategy.model, strategy.training.seq_length
    top_k, num_experts = shape.num_experts_per_tok, shape.num_experts
    scores_TE = routing.logits_TE.detach().softmax(-1)
    valid_T = torch.ones(len(scores_TE), dtype=torch.bool) if mask_BS is None else mask_BS.reshape(-1)
    ranked = (scores_TE if bias is None else scores_TE + bias).sort(-1, descending=True)
    gaps = [torch.ones(1)]
    if top_k < num_experts and strategy.runtime.force_routing is None:
        gaps.append((ranked.values[:, top_k - 1] - ranked.values[:, top_k])[valid_T])
    if shape.dispatch == "capacity":
        chosen_TE = torch.zeros_like(scores_TE).scatter_(1, routing.experts_UK, 1.0) * scores_TE
        # [sequence, position, expert], the highest first: what an expert takes before and after its limit.
        queue_BSE = (chosen_TE * valid_T[:, None]).view(-1, seq_length, num_experts)
        queue_BSE = queue_BSE.sort(1, descending=True).values
        for queue_SE, num_valid in zip(queue_BSE, valid_T.view(-1, seq_length).sum(1).tolist(), strict=True):
            capacity = math.ceil(shape.capacity_factor * top_k * num_valid / num_experts)
            if 0 < capacity < seq_length:
                last_E, first_out_E = queue_SE[capacity - 1], queue_SE[capacity]
                gaps.append((last_E - first_out_E)[first_out_E > 0])
    return min(gap.min().item() for gap in gaps if gap.numel())
