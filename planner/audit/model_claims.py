"""Figures of the model: its parameters, and the FLOPs that a token and a step ask of any machine."""

from collections.abc import Iterator

from planner.audit.verdicts import AuditContext, Derivation
from planner.counts.flops import model_flops, token_flops
from planner.counts.parameters import model_parameters
from planner.units import format_count, format_flops


def parameters(context: AuditContext) -> Iterator[Derivation]:
    counts = model_parameters(context.strategy.model)
    yield Derivation(value=counts.total, arithmetic=f"{counts.total:,}, embedding and head included")
    yield _without_embedding(counts.total - counts.embedding)


def active_parameters(context: AuditContext) -> Iterator[Derivation]:
    model = context.strategy.model
    counts = model_parameters(model)
    text = f"{counts.active:,}: {model.num_experts_per_tok} of {model.num_experts} experts in a layer"
    yield Derivation(value=counts.active, arithmetic=f"{text}, embedding and head included")
    yield _without_embedding(counts.active - counts.embedding)


def _without_embedding(count: int) -> Derivation:
    text = f"{count:,}, as some documents count"
    return Derivation(of="without the embedding", value=count, arithmetic=text, decides=False)


def forward_flops_per_token(context: AuditContext) -> Iterator[Derivation]:
    length = context.strategy.training.seq_length
    forward = token_flops(context.strategy.model, length)
    text = f"2 FLOP for each active matrix element, and causal attention over {length:,} tokens"
    yield Derivation(value=forward, arithmetic=text)


def training_flops_per_token(context: AuditContext) -> Iterator[Derivation]:
    forward = token_flops(context.strategy.model, context.strategy.training.seq_length)
    text = f"3 × {format_flops(forward, 'FLOP')}: the backward pass is twice the forward, without recompute"
    yield Derivation(value=3 * forward, arithmetic=text)
    active = model_parameters(context.strategy.model).active
    text = f"6 × {format_count(active)} active parameters, without attention: a rule of thumb"
    yield Derivation(of="6 N", value=6 * active, arithmetic=text, decides=False)


def flops_per_step(context: AuditContext) -> Iterator[Derivation]:
    flops, tokens = model_flops(context.plan), context.prediction.tokens_per_step
    text = f"{tokens:,} tokens × {format_flops(flops.total / tokens, 'FLOP')}, without recompute"
    yield Derivation(of="training", value=flops.total, arithmetic=text)
    text = f"{tokens:,} tokens × {format_flops(flops.forward / tokens, 'FLOP')}"
    yield Derivation(of="forward alone", value=flops.forward, arithmetic=text, decides=False)
