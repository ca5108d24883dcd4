"""Figures of compute and communication: predicted, by the document's own figures, and their bounds."""

from collections.abc import Iterator

from planner.audit.lower_bounds import all_reduce_bytes, all_to_all_bytes, link_bytes_per_s, sent_batch_bytes
from planner.audit.verdicts import AuditContext, Derivation, show_seconds
from planner.counts.flops import model_flops
from planner.counts.parameters import stage_parameters
from planner.prediction.load_balance import compute_balance, rank_flops
from planner.topology.placement import Stage
from planner.units import format_flops, plural

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


def total_compute_share(context: AuditContext) -> Iterator[Derivation]:
    """Of all FLOPs of a step, those of one GPU; of every stage, because the claim is about each GPU."""
    plan = context.plan
    total = sum(rank_flops(plan, stage) * len(stage.ranks) for stage in plan.stages)
    for stage in plan.stages:
        flops = rank_flops(plan, stage)
        text = f"{flops / 1e12:.4g} of {total / 1e12:.4g} TFLOP of matmuls per step"
        value = flops / total if total else 0.0
        yield Derivation(
            of=f"one of {plural(len(stage.ranks), f'{stage.name} GPU')}", value=value, arithmetic=text
        )


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


def mfu(context: AuditContext) -> Iterator[Derivation]:
    prediction = context.prediction
    flops = model_flops(context.plan).total / prediction.step_s
    yield Derivation(
        value=prediction.mfu,
        arithmetic=f"{format_flops(flops, 'FLOPS')} of the model / peak of {context.plan.world_size:,} GPUs",
        relation="at least",
        bound=1.0,
        why="no GPU computes faster than its peak",
    )
    yield Derivation(
        of="HFU",
        value=prediction.hfu,
        arithmetic="with what is recomputed or padding",
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
    text = (
        f"{num_bytes / 1e6:,.1f} MB {what} leave each GPU in one forward pass, in "
        f"{show_seconds(seconds)} ({whose})"
    )
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
    seconds = sent_batch_bytes(context) / (num * link)
    yield Derivation(
        of="the stage",
        value=num * link,
        arithmetic=f"{num} {narrow.name} GPUs × {link / 1e9:g} GB/s; a batch takes {show_seconds(seconds)}",
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
        text = (
            f"{show_seconds(part)} / {show_seconds(whole)} = {100 * share:.4g} %, which must be below the "
            "stated value"
        )
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
