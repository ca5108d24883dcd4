"""Figures of compute, communication and time: predicted, by the document's own figures, bounded by floors."""

from collections.abc import Iterator

from planner.audit.lower_bounds import (
    Floor,
    all_reduce_bytes,
    all_to_all_bytes,
    all_to_all_layer_bytes,
    batch_bytes,
    compute_floor,
    forward_floor,
    link_bytes_per_s,
    links_floor,
)
from planner.audit.verdicts import Case, Reading, show_s
from planner.counts.parameters import stage_parameters
from planner.prediction.load_balance import compute_balance, rank_flops
from planner.topology.placement import Stage

# Compute


def embedding_compute_share(case: Case) -> Iterator[Reading]:
    yield from _compute_share(case, case.embedding)


def expert_compute_share(case: Case) -> Iterator[Reading]:
    yield from _compute_share(case, case.experts)


def aggregation_compute_share(case: Case) -> Iterator[Reading]:
    yield from _compute_share(case, case.output)


def _compute_share(case: Case, stage: Stage) -> Iterator[Reading]:
    """Of its stage, by the matrices that TP partners split; of the whole model, by FLOPs."""
    model, tp = case.strategy.model, stage.dense.size("tp")
    split = [
        sum(t.num_elements for t in stage_parameters(model, stage, i) if t.is_split_over_tp) or 1
        for i in range(tp)
    ]
    share = split[0] / sum(split) / stage.data_parallel_size
    text = f"one of {len(stage.ranks)} GPUs ({stage.name}) that share its work evenly"
    yield Reading(of="of its stage", value=share, arithmetic=text)
    total = sum(rank_flops(case.plan, other) * len(other.ranks) for other in case.plan.stages)
    flops = rank_flops(case.plan, stage)
    text = f"{flops / 1e12:.4g} of {total / 1e12:.4g} TFLOP of products a step"
    if not flops:
        text += "; a lookup has none"
    yield Reading(
        of="of the whole model", value=flops / total if total else 0.0, arithmetic=text, decides=False
    )


def compute_variance(case: Case) -> Iterator[Reading]:
    plan = case.plan
    each = ", ".join(
        f"{len(stage.ranks)} × {rank_flops(plan, stage) / 1e12:.4g} TFLOP" for stage in plan.stages
    )
    text = f"{each} a step: standard deviation / mean, tokens reaching experts evenly"
    yield Reading(of="over all GPUs", value=compute_balance(plan).variation, arithmetic=text)
    text = "the same work on each if tokens reach experts evenly, which a router does not promise"
    yield Reading(of="within a stage", value=0.0, arithmetic=text, decides=False)


def utilization(case: Case) -> Iterator[Reading]:
    prediction = case.prediction
    ideal = _ideal_utilization(case)
    text = ", ".join(f"{s.num_ranks} × {s.name} {s.utilization:.1%}" for s in prediction.stages)
    yield Reading(
        of="mean of all GPUs",
        value=prediction.utilization,
        arithmetic=f"(compute + optimizer) / step: {text}; {ideal:.1%} if all communication ran beside it",
        relation="at least",
    )
    worst = min(prediction.stages, key=lambda stage: stage.utilization)
    yield Reading(
        of="the least busy stage",
        value=worst.utilization,
        arithmetic=f"the {worst.num_ranks} {worst.name} GPUs",
        relation="at least",
        decides=False,
    )


def compute_headroom(case: Case) -> Iterator[Reading]:
    used = case.prediction.utilization
    yield Reading(value=1 - used, arithmetic=f"1 − utilization {used:.1%}, mean of all GPUs")


def _ideal_utilization(case: Case) -> float:
    stages, ideal = case.prediction.stages, case.prediction.bracket.full_overlap_s
    useful = sum(
        s.num_ranks * (s.phases.phases_s["compute"] + s.phases.phases_s["optimizer"]) for s in stages
    )
    return float(min(1.0, useful / ideal / case.plan.world_size))


# Communication


def embedding_all_reduce(case: Case) -> Iterator[Reading]:
    yield _bandwidth(case, all_reduce_bytes(case, case.embedding), "of the embedding's all-reduce")


def aggregation_all_reduce(case: Case) -> Iterator[Reading]:
    if case.strategy.model.aggregation == "none":
        yield Reading(value=None, arithmetic="the model has no aggregation (model.aggregation: none)")
        return
    yield _bandwidth(case, all_reduce_bytes(case, case.output), "of the aggregation's all-reduce")


def all_to_all(case: Case) -> Iterator[Reading]:
    sent = all_to_all_bytes(case, case.experts)
    yield _bandwidth(case, sent, f"of all-to-all, {len(case.experts.layers)} layers both ways")


def _bandwidth(case: Case, num_bytes: float, what: str) -> Reading:
    """What a GPU's link must carry: the bytes of one forward pass in the time that is stated for it."""
    stated, link = case.stated("forward_latency"), link_bytes_per_s(case)
    seconds, whose = (stated, "stated") if stated else (case.prediction.forward_latency_s, "predicted")
    needed = num_bytes / seconds
    text = f"{num_bytes / 1e6:,.1f} MB {what} leave a GPU in one forward pass, in {show_s(seconds)} ({whose})"
    return Reading(
        value=needed,
        arithmetic=text,
        relation="at most",
        exceeds=needed > link,
        why=f"a GPU's link carries {link / 1e9:g} GB/s" if needed > link else "",
    )


def embedding_to_expert(case: Case) -> Iterator[Reading]:
    yield from _hand_over(case, 0)


def expert_to_aggregation(case: Case) -> Iterator[Reading]:
    yield from _hand_over(case, len(case.plan.stages) - 2)


def _hand_over(case: Case, i: int) -> Iterator[Reading]:
    """What can pass from stage i to the next: all links of the end with fewer GPUs, and one link alone."""
    if case.strategy.parallel.placement != "staged":
        text = "nothing is handed over: embedding, experts and output are on the same GPUs"
        yield Reading(value=None, arithmetic=text, relation="at least")
        return
    before, after = case.plan.stages[i], case.plan.stages[i + 1]
    narrow = min(before, after, key=lambda stage: len(stage.ranks))
    links, num, best = case.strategy.cluster.links, len(narrow.ranks), link_bytes_per_s(case)
    link = links.inter_host if len(case.plan.hosts) > 1 else links.intra_host
    seconds = batch_bytes(case) / (num * link)
    yield Reading(
        of="the stage",
        value=num * link,
        arithmetic=f"{num} {narrow.name} GPUs × {link / 1e9:g} GB/s; a batch takes {show_s(seconds)}",
        relation="at least",
        bound=num * best,
        why=f"{num} links carry {num * best / 1e9:g} GB/s together",
    )
    yield Reading(
        of="a link",
        value=link,
        arithmetic=f"one GPU's link: {8 * link / 1e9:g} Gbps / 8",
        relation="at least",
        decides=False,
        bound=best,
        why=f"a link carries {best / 1e9:g} GB/s",
    )


def communication_share(case: Case) -> Iterator[Reading]:
    part, whole = case.stated("communication_latency"), case.stated("forward_latency")
    if part is not None and whole:
        share = part / whole
        text = f"{show_s(part)} / {show_s(whole)} = {100 * share:.4g} %, which is to be below what is stated"
        yield Reading(of="by its own figures", value=share, arithmetic=text, relation="below")
    stages = ", ".join(
        f"{s.num_ranks} × {s.name} {s.communication_share:.1%}" for s in case.prediction.stages
    )
    yield Reading(
        of="in training",
        value=case.prediction.communication_share,
        arithmetic=f"waits for other GPUs / step, mean of all: {stages}",
        relation="below",
    )


# Time


def forward_latency(case: Case) -> Iterator[Reading]:
    plan, prediction = case.plan, case.prediction
    m = plan.batch.accumulation
    stages = " + ".join(f"{s.name} {show_s(s.time.forward.total_s)}" for s in prediction.stages)
    moved = sum(s.transfer_in_s for s in prediction.stages)
    times = [s.time.forward.total_s for s in prediction.stages]
    transfers = [s.transfer_in_s for s in prediction.stages]
    hidden = sum(times) + moved + (m - 1) * max(*times, *transfers) - prediction.forward_latency_s
    beside = f" - {show_s(hidden)} of them beside computing, in chunks" if hidden > 1e-3 * moved else ""
    text = (
        f"one micro-batch: {stages} + hand-overs {show_s(moved)}{beside}; the slowest again for {m - 1} more"
    )
    yield _time(prediction.forward_latency_s, text, forward_floor(case))


def embedding_latency(case: Case) -> Iterator[Reading]:
    yield from _stage_latency(case, (case.embedding,))


def expert_latency(case: Case) -> Iterator[Reading]:
    yield from _stage_latency(case, tuple(stage for stage in case.plan.stages if stage.layers))


def aggregation_latency(case: Case) -> Iterator[Reading]:
    yield from _stage_latency(case, (case.output,))


def _stage_latency(case: Case, stages: tuple[Stage, ...]) -> Iterator[Reading]:
    """Computing alone, because a document that breaks its latency down states communication apart."""
    m = case.plan.batch.accumulation
    times = [case.prediction.stages[case.plan.stages.index(stage)].time.forward for stage in stages]
    compute, total = (
        m * sum(values) for values in ([t.compute_s for t in times], [t.total_s for t in times])
    )
    floors = [compute_floor(case, stage) for stage in stages]
    floor = Floor(seconds=sum(f.seconds for f in floors), why="; ".join(f.why for f in floors))
    text = f"{m} micro-batches × {show_s(compute / m)} of computing on one GPU"
    yield _time(compute, text, floor, of="computing")
    links = [links_floor(case, stage, is_whole=False) for stage in stages]
    floor = Floor(seconds=sum(f.seconds for f in links), why="; ".join(f.why for f in links))
    text = f"{m} micro-batches × {show_s(total / m)}"
    yield _time(total, text, floor, of="with its collectives", decides=False)


def communication_latency(case: Case) -> Iterator[Reading]:
    m, stages = case.plan.batch.accumulation, case.prediction.stages
    inside = m * sum(stage.time.forward.communication_s for stage in stages)
    between = m * sum(stage.transfer_in_s for stage in stages)
    floors = (links_floor(case, stage) for stage in case.plan.stages)
    floor = max(floors, key=lambda floor: floor.seconds)
    text = f"collectives {show_s(inside)} + hand-overs {show_s(between)}, summed over stages side by side"
    yield _time(inside + between, text, floor, of="the whole forward pass")
    layer, link = all_to_all_layer_bytes(case), link_bytes_per_s(case)
    seconds = all_to_all_bytes(case, case.experts) / link
    if not layer:
        return
    text = (
        f"{layer:,.0f} bytes one way and layer / {link / 1e9:g} GB/s = {show_s(layer / link)}; "
        f"× {seconds * link / layer:.0f} = {show_s(seconds)}"
    )
    reason = f"the all-to-all's bytes alone take {show_s(seconds)}"
    yield _time(seconds, text, Floor(seconds=seconds, why=reason), of="all-to-all alone", decides=False)


def tokens_per_second(case: Case) -> Iterator[Reading]:
    rate, batch = case.stated("batches_per_second"), case.stated("tokens_per_batch")
    if rate is not None and batch is not None:
        text = f"{rate:g} batches/s × {batch:,.0f} tokens = {rate * batch:,.0f}"
        yield Reading(of="by its own figures", value=rate * batch, arithmetic=text)
    tokens = case.prediction.tokens_per_step
    yield from _rates(case, float(tokens), f"{tokens:,} tokens")


def batches_per_second(case: Case) -> Iterator[Reading]:
    latency = case.stated("forward_latency")
    if latency:
        text = f"1 / {show_s(latency)} = {1 / latency:g}, one batch after the other"
        yield Reading(of="by its own figures", value=1 / latency, arithmetic=text)
    yield from _rates(case, 1.0, "1 batch")


def _rates(case: Case, amount: float, what: str) -> Iterator[Reading]:
    forward, step, floor = case.prediction.forward_latency_s, case.prediction.step_s, forward_floor(case)
    yield Reading(
        of="forward alone",
        value=amount / forward,
        arithmetic=f"{what} / {show_s(forward)} of a forward pass",
        relation="at least",
        bound=amount / floor.seconds if floor.seconds else None,
        why=floor.why,
    )
    yield Reading(
        of="in training",
        value=amount / step,
        arithmetic=f"{what} / {show_s(step)} of a step",
        relation="at least",
        decides=False,
        bound=amount / floor.seconds if floor.seconds else None,
        why=floor.why,
    )


def _time(seconds: float, text: str, floor: Floor, *, of: str = "", decides: bool = True) -> Reading:
    return Reading(
        of=of,
        value=seconds,
        arithmetic=text,
        relation="at most",
        decides=decides,
        bound=floor.seconds,
        why=floor.why,
    )
