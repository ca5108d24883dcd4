"""Figures of compute, communication and time: predicted, by the document's own figures, bounded by bounds."""

from collections.abc import Iterator

from planner.audit.lower_bounds import (
    LowerBound,
    all_reduce_bytes,
    all_to_all_bytes,
    all_to_all_layer_bytes,
    batch_bytes,
    compute_bound,
    forward_bound,
    link_bytes_per_s,
    links_bound,
)
from planner.audit.verdicts import AuditContext, Derivation
from planner.counts.parameters import stage_parameters
from planner.prediction.load_balance import compute_balance, rank_flops
from planner.topology.placement import Stage
from planner.units import format_seconds, plural

# Compute


def embedding_compute_share(context: AuditContext) -> Iterator[Derivation]:
    yield from _compute_share(context, context.embedding)


def expert_compute_share(context: AuditContext) -> Iterator[Derivation]:
    yield from _compute_share(context, context.experts)


def aggregation_compute_share(context: AuditContext) -> Iterator[Derivation]:
    yield from _compute_share(context, context.output)


def _compute_share(context: AuditContext, stage: Stage) -> Iterator[Derivation]:
    """Of its stage, by the matrices that TP partners split; of the model, by FLOPs."""
    model, tp = context.strategy.model, stage.dense.size("tp")
    split = [
        sum(t.num_elements for t in stage_parameters(model, stage, i) if t.is_split_over_tp) or 1
        for i in range(tp)
    ]
    share = split[0] / sum(split) / stage.data_parallel_size
    text = f"one of {plural(len(stage.ranks), 'GPU')} ({stage.name}) that share its work evenly"
    yield Derivation(of="of its stage", value=share, arithmetic=text)
    total = sum(rank_flops(context.plan, other) * len(other.ranks) for other in context.plan.stages)
    flops = rank_flops(context.plan, stage)
    text = f"{flops / 1e12:.4g} of {total / 1e12:.4g} TFLOP of matmuls per step"
    if not flops:
        text += "; a lookup has none"
    yield Derivation(of="of the model", value=flops / total if total else 0.0, arithmetic=text, decides=False)


def compute_variance(context: AuditContext) -> Iterator[Derivation]:
    plan = context.plan
    each = ", ".join(
        f"{len(stage.ranks)} × {rank_flops(plan, stage) / 1e12:.4g} TFLOP" for stage in plan.stages
    )
    text = f"{each} per step: standard deviation / mean, tokens reaching experts evenly"
    yield Derivation(of="over all GPUs", value=compute_balance(plan).variation, arithmetic=text)
    text = "the same work on each if tokens reach experts evenly, which a router does not promise"
    yield Derivation(of="within a stage", value=0.0, arithmetic=text, decides=False)


def utilization(context: AuditContext) -> Iterator[Derivation]:
    prediction = context.prediction
    ideal = _ideal_utilization(context)
    text = ", ".join(f"{s.num_ranks} × {s.name} {s.utilization:.1%}" for s in prediction.stages)
    yield Derivation(
        of="mean of all GPUs",
        value=prediction.utilization,
        arithmetic=f"(compute + optimizer) / step: {text}; {ideal:.1%} if all communication overlapped",
        relation="at least",
    )
    worst = min(prediction.stages, key=lambda stage: stage.utilization)
    yield Derivation(
        of="the least busy stage",
        value=worst.utilization,
        arithmetic=f"the {worst.num_ranks} {worst.name} GPUs",
        relation="at least",
        decides=False,
    )


def compute_headroom(context: AuditContext) -> Iterator[Derivation]:
    used = context.prediction.utilization
    yield Derivation(value=1 - used, arithmetic=f"1 − utilization {used:.1%}, mean of all GPUs")


def _ideal_utilization(context: AuditContext) -> float:
    stages, ideal = context.prediction.stages, context.prediction.bracket.full_overlap_s
    useful = sum(
        s.num_ranks * (s.phases.phases_s["compute"] + s.phases.phases_s["optimizer"]) for s in stages
    )
    return float(min(1.0, useful / ideal / context.plan.world_size))


# Communication


def embedding_all_reduce(context: AuditContext) -> Iterator[Derivation]:
    yield _bandwidth(context, all_reduce_bytes(context, context.embedding), "of the embedding's all-reduce")


def aggregation_all_reduce(context: AuditContext) -> Iterator[Derivation]:
    if context.strategy.model.aggregation == "none":
        yield Derivation(value=None, arithmetic="the model has no aggregation (model.aggregation: none)")
        return
    yield _bandwidth(context, all_reduce_bytes(context, context.output), "of the aggregation's all-reduce")


def all_to_all(context: AuditContext) -> Iterator[Derivation]:
    sent = all_to_all_bytes(context, context.experts)
    yield _bandwidth(context, sent, f"of all-to-all ({len(context.experts.layers)} layers, both ways)")


def _bandwidth(context: AuditContext, num_bytes: float, what: str) -> Derivation:
    """What a GPU's link must carry: the bytes of one forward pass in the time that is stated for it."""
    stated, link = context.stated("forward_latency"), link_bytes_per_s(context)
    seconds, whose = (stated, "stated") if stated else (context.prediction.forward_latency_s, "predicted")
    needed = num_bytes / seconds
    text = f"{num_bytes / 1e6:,.1f} MB {what} leave each GPU in one forward pass, in {_s(seconds)} ({whose})"
    return Derivation(
        value=needed,
        arithmetic=text,
        relation="at most",
        exceeds=needed > link,
        why=f"a GPU's link carries {link / 1e9:g} GB/s" if needed > link else "",
    )


def embedding_to_expert(context: AuditContext) -> Iterator[Derivation]:
    yield from _stage_p2p(context, 0)


def expert_to_aggregation(context: AuditContext) -> Iterator[Derivation]:
    yield from _stage_p2p(context, len(context.plan.stages) - 2)


def _stage_p2p(context: AuditContext, i: int) -> Iterator[Derivation]:
    """What can pass from stage i to the next: all links of the end with fewer GPUs, and one link alone."""
    if context.strategy.parallel.placement != "staged":
        text = "nothing is sent between stages: embedding, experts and output are on the same GPUs"
        yield Derivation(value=None, arithmetic=text, relation="at least")
        return
    before, after = context.plan.stages[i], context.plan.stages[i + 1]
    narrow = min(before, after, key=lambda stage: len(stage.ranks))
    links, num, best = context.strategy.cluster.links, len(narrow.ranks), link_bytes_per_s(context)
    link = links.inter_host if len(context.plan.hosts) > 1 else links.intra_host
    seconds = batch_bytes(context) / (num * link)
    yield Derivation(
        of="the stage",
        value=num * link,
        arithmetic=f"{num} {narrow.name} GPUs × {link / 1e9:g} GB/s; a batch takes {_s(seconds)}",
        relation="at least",
        bound=num * best,
        why=f"{num} links carry {num * best / 1e9:g} GB/s together",
    )
    yield Derivation(
        of="a link",
        value=link,
        arithmetic=f"one GPU's link: {8 * link / 1e9:g} Gbps / 8",
        relation="at least",
        decides=False,
        bound=best,
        why=f"a link carries {best / 1e9:g} GB/s",
    )


def communication_share(context: AuditContext) -> Iterator[Derivation]:
    part, whole = context.stated("communication_latency"), context.stated("forward_latency")
    if part is not None and whole:
        share = part / whole
        text = f"{_s(part)} / {_s(whole)} = {100 * share:.4g} %, which must be below the stated value"
        yield Derivation(of="by its own figures", value=share, arithmetic=text, relation="below")
    stages = ", ".join(
        f"{s.num_ranks} × {s.name} {s.communication_share:.1%}" for s in context.prediction.stages
    )
    yield Derivation(
        of="in training",
        value=context.prediction.communication_share,
        arithmetic=f"waits for other GPUs / step, mean of all: {stages}",
        relation="below",
    )


# Time


def forward_latency(context: AuditContext) -> Iterator[Derivation]:
    plan, prediction = context.plan, context.prediction
    m = plan.batch.accumulation
    stages = " + ".join(f"{s.name} {_s(s.time.forward.total_s)}" for s in prediction.stages)
    moved = sum(s.transfer_in_s for s in prediction.stages)
    times = [s.time.forward.total_s for s in prediction.stages]
    transfers = [s.transfer_in_s for s in prediction.stages]
    hidden = sum(times) + moved + (m - 1) * max(*times, *transfers) - prediction.forward_latency_s
    beside = f" - {_s(hidden)} of them overlapped with compute, in chunks" if hidden > 1e-3 * moved else ""
    text = f"one micro-batch: {stages} + P2P {_s(moved)}{beside}; the slowest again for {m - 1} more"
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
    text = f"{m} micro-batches × {_s(compute / m)} of compute on one GPU"
    yield _time(compute, text, bound, of="computing")
    links = [links_bound(context, stage, is_whole=False) for stage in stages]
    bound = LowerBound(seconds=sum(f.seconds for f in links), why="; ".join(f.why for f in links))
    text = f"{m} micro-batches × {_s(total / m)}"
    yield _time(total, text, bound, of="with its collectives", decides=False)


def communication_latency(context: AuditContext) -> Iterator[Derivation]:
    m, stages = context.plan.batch.accumulation, context.prediction.stages
    inside = m * sum(stage.time.forward.communication_s for stage in stages)
    between = m * sum(stage.transfer_in_s for stage in stages)
    bounds = (links_bound(context, stage) for stage in context.plan.stages)
    bound = max(bounds, key=lambda bound: bound.seconds)
    text = f"collectives {_s(inside)} + P2P between stages {_s(between)}, summed over stages side by side"
    yield _time(inside + between, text, bound, of="the entire forward pass")
    layer, link = all_to_all_layer_bytes(context), link_bytes_per_s(context)
    seconds = all_to_all_bytes(context, context.experts) / link
    if not layer:
        return
    text = (
        f"{layer:,.0f} bytes per layer and direction / {link / 1e9:g} GB/s = {_s(layer / link)}; "
        f"× {seconds * link / layer:.0f} = {_s(seconds)}"
    )
    reason = f"the all-to-all's bytes alone take {_s(seconds)}"
    yield _time(seconds, text, LowerBound(seconds=seconds, why=reason), of="all-to-all alone", decides=False)


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
        text = f"1 / {_s(latency)} = {1 / latency:g}, one batch after the other"
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
        arithmetic=f"{what} / {_s(forward)} of a forward pass",
        relation="at least",
        bound=amount / bound.seconds if bound.seconds else None,
        why=bound.why,
    )
    yield Derivation(
        of="in training",
        value=amount / step,
        arithmetic=f"{what} / {_s(step)} of a step",
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


def _s(value: float) -> str:
    return format_seconds(value, digits=4)
