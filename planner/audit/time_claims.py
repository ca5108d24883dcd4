"""Figures of time: latencies and rates, predicted, by the document's own figures, and their bounds."""

from collections.abc import Iterator

from planner.audit.lower_bounds import (
    LowerBound,
    all_to_all_bytes,
    all_to_all_layer_bytes,
    compute_bound,
    forward_bound,
    link_bytes_per_s,
    links_bound,
)
from planner.audit.verdicts import AuditContext, Derivation, show_seconds
from planner.topology.placement import Stage


def forward_latency(context: AuditContext) -> Iterator[Derivation]:
    plan, prediction = context.plan, context.prediction
    m = plan.batch.accumulation
    stages = " + ".join(f"{s.name} {show_seconds(s.time.forward.total_s)}" for s in prediction.stages)
    moved = sum(s.transfer_in_s for s in prediction.stages)
    times = [s.time.forward.total_s for s in prediction.stages]
    transfers = [s.transfer_in_s for s in prediction.stages]
    hidden = sum(times) + moved + (m - 1) * max(*times, *transfers) - prediction.forward_latency_s
    beside = (
        f" - {show_seconds(hidden)} of them overlapped with compute, in chunks"
        if hidden > 1e-3 * moved
        else ""
    )
    text = (
        f"one micro-batch: {stages} + P2P {show_seconds(moved)}{beside}; the slowest again for {m - 1} more"
    )
    yield _time(prediction.forward_latency_s, text, forward_bound(context))


def embedding_latency(context: AuditContext) -> Iterator[Derivation]:
    yield from _stage_latency(context, (context.embedding,))


def expert_latency(context: AuditContext) -> Iterator[Derivation]:
    yield from _stage_latency(context, tuple(stage for stage in context.plan.stages if stage.layers))


def aggregation_latency(context: AuditContext) -> Iterator[Derivation]:
    yield from _stage_latency(context, (context.output,))


def _stage_latency(context: AuditContext, stages: tuple[Stage, ...]) -> Iterator[Derivation]:
    """Computing alone, because a document that breaks its latency down states communication apart."""
    m = context.plan.batch.accumulation
    times = [context.prediction.stages[context.plan.stages.index(stage)].time.forward for stage in stages]
    compute, total = (
        m * sum(values) for values in ([t.compute_s for t in times], [t.total_s for t in times])
    )
    bounds = [compute_bound(context, stage) for stage in stages]
    bound = LowerBound(seconds=sum(f.seconds for f in bounds), why="; ".join(f.why for f in bounds))
    text = f"{m} micro-batches × {show_seconds(compute / m)} of compute on one GPU"
    yield _time(compute, text, bound, of="computing")
    links = [links_bound(context, stage, is_whole=False) for stage in stages]
    bound = LowerBound(seconds=sum(f.seconds for f in links), why="; ".join(f.why for f in links))
    text = f"{m} micro-batches × {show_seconds(total / m)}"
    yield _time(total, text, bound, of="with its collectives", decides=False)


def communication_latency(context: AuditContext) -> Iterator[Derivation]:
    m, stages = context.plan.batch.accumulation, context.prediction.stages
    inside = m * sum(stage.time.forward.communication_s for stage in stages)
    between = m * sum(stage.transfer_in_s for stage in stages)
    bounds = (links_bound(context, stage) for stage in context.plan.stages)
    bound = max(bounds, key=lambda bound: bound.seconds)
    text = (
        f"collectives {show_seconds(inside)} + P2P between stages {show_seconds(between)}, summed over "
        "stages side by side"
    )
    yield _time(inside + between, text, bound, of="the entire forward pass")
    layer, link = all_to_all_layer_bytes(context), link_bytes_per_s(context)
    seconds = all_to_all_bytes(context, context.experts) / link
    if not layer:
        return
    text = (
        f"{layer:,.0f} bytes per layer and direction / {link / 1e9:g} GB/s = {show_seconds(layer / link)}; "
        f"× {seconds * link / layer:.0f} = {show_seconds(seconds)}"
    )
    reason = f"the all-to-all's bytes alone take {show_seconds(seconds)}"
    yield _time(seconds, text, LowerBound(seconds=seconds, why=reason), of="all-to-all alone", decides=False)


def step_time(context: AuditContext) -> Iterator[Derivation]:
    step = context.prediction.step_s
    tokens = context.prediction.tokens_per_step
    text = f"forward, backward, communication and optimizer of {tokens:,} tokens"
    yield _time(step, text, forward_bound(context))
    rate = context.stated("tokens_per_second")
    if rate:
        text = f"{tokens:,} tokens / {rate:,.0f} tokens/s"
        yield Derivation(
            of="by its own figures", value=tokens / rate, arithmetic=text, relation="at most", decides=False
        )


def tokens_per_second(context: AuditContext) -> Iterator[Derivation]:
    rate, batch = context.stated("batches_per_second"), context.stated("tokens_per_batch")
    if rate is not None and batch is not None:
        text = f"{rate:g} batches/s × {batch:,.0f} tokens = {rate * batch:,.0f}"
        yield Derivation(of="by its own figures", value=rate * batch, arithmetic=text)
    tokens = context.prediction.tokens_per_step
    yield from _rates(context, float(tokens), f"{tokens:,} tokens")


def batches_per_second(context: AuditContext) -> Iterator[Derivation]:
    latency = context.stated("forward_latency")
    if latency:
        text = f"1 / {show_seconds(latency)} = {1 / latency:g}, one batch after the other"
        yield Derivation(of="by its own figures", value=1 / latency, arithmetic=text)
    yield from _rates(context, 1.0, "1 batch")


def _rates(context: AuditContext, amount: float, what: str) -> Iterator[Derivation]:
    forward, step, bound = (
        context.prediction.forward_latency_s,
        context.prediction.step_s,
        forward_bound(context),
    )
    yield Derivation(
        of="forward alone",
        value=amount / forward,
        arithmetic=f"{what} / {show_seconds(forward)} of a forward pass",
        relation="at least",
        bound=amount / bound.seconds if bound.seconds else None,
        why=bound.why,
    )
    yield Derivation(
        of="in training",
        value=amount / step,
        arithmetic=f"{what} / {show_seconds(step)} of a step",
        relation="at least",
        decides=False,
        bound=amount / bound.seconds if bound.seconds else None,
        why=bound.why,
    )


def _time(seconds: float, text: str, bound: LowerBound, *, of: str = "", decides: bool = True) -> Derivation:
    return Derivation(
        of=of,
        value=seconds,
        arithmetic=text,
        relation="at most",
        decides=decides,
        bound=bound.seconds,
        why=bound.why,
    )
