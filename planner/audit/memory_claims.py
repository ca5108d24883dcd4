"""Figures of memory: what a GPU holds at its peak; beside it the weights that a stated figure may mean."""

from collections.abc import Iterator

from planner.audit.layout_claims import expert_layer_parameters, held
from planner.audit.verdicts import AuditContext, Derivation, show_bytes
from planner.counts.parameters import TensorKind
from planner.memory.fit import fullest_rank
from planner.memory.optimizer_state import FP32_BYTES, bytes_per_parameter
from planner.memory.rank_memory import fullest_ranks
from planner.prediction.load_balance import memory_balance
from planner.topology.placement import Stage


def embedding_memory(context: AuditContext) -> Iterator[Derivation]:
    yield _peak(context, context.embedding)
    yield from _weights(context, context.embedding, "embedding", "its part of the embedding")


def expert_memory(context: AuditContext) -> Iterator[Derivation]:
    yield _peak(context, context.experts)
    layer = expert_layer_parameters(context)
    text = f"{layer:,} parameters × {FP32_BYTES}"
    yield _meant(text, layer * FP32_BYTES, "experts of one layer, fp32")
    yield from _weights(
        context, context.experts, "experts", f"experts of all {len(context.experts.layers)} layers"
    )


def aggregation_memory(context: AuditContext) -> Iterator[Derivation]:
    yield _peak(context, context.output)
    hidden = context.strategy.model.hidden_size
    if context.strategy.model.aggregation == "linear":
        whole = hidden * hidden * FP32_BYTES
        text = f"the full matrix, not one GPU's part: {hidden} × {hidden} × {FP32_BYTES}"
        yield _meant(text, whole, "the full matrix, fp32")
        yield from _weights(context, context.output, "aggregation", "its part of the aggregation")


def max_memory(context: AuditContext) -> Iterator[Derivation]:
    yield _peak(context, _fullest_stage(context))
    stage = _fullest_stage(context)
    weight = _stored(context)
    count = sum(held(context, stage, kind) for kind in _KINDS)
    text = f"{count:,} parameters × {weight}: the weights alone, of all kinds, on one GPU of {stage.name}"
    precision = context.strategy.training.precision
    yield _meant(text, count * weight, f"weights alone, {precision}")


def memory_share(context: AuditContext) -> Iterator[Derivation]:
    yield from _own_share(context, is_headroom=False)
    peak, memory = fullest_rank(context.plan).peak_bytes, context.strategy.cluster.gpu.memory
    text = f"{show_bytes(peak)} / {show_bytes(memory)}, the fullest GPU at its peak"
    yield Derivation(of="in training", value=peak / memory, arithmetic=text)


def memory_headroom(context: AuditContext) -> Iterator[Derivation]:
    yield from _own_share(context, is_headroom=True)
    peak, memory = fullest_rank(context.plan).peak_bytes, context.strategy.cluster.gpu.memory
    text = f"1 − {show_bytes(peak)} / {show_bytes(memory)}, the fullest GPU at its peak"
    yield Derivation(of="in training", value=1 - peak / memory, arithmetic=text, relation="at least")


def balance_of_memory(context: AuditContext) -> Iterator[Derivation]:
    own = [context.stated(f"{name}_memory") for name in ("embedding", "expert", "aggregation")]
    stages = context.plan.stages
    if len(stages) > 1 and all(value is not None for value in own):
        embedding, expert, aggregation = (value or 0.0 for value in own)
        values = [
            embedding if stage.contents.embedding else aggregation if stage.contents.output else expert
            for stage in stages
        ]
        ranks = [len(stage.ranks) for stage in stages]
        mean = sum(v * n for v, n in zip(values, ranks, strict=True)) / sum(ranks)
        each = " + ".join(f"{n} × {show_bytes(v)}" for v, n in zip(values, ranks, strict=True))
        text = f"({each}) / {sum(ranks)} / {show_bytes(max(values))}: mean over maximum"
        yield Derivation(of="by its own figures", value=mean / max(values), arithmetic=text)
    balance = memory_balance(context.plan)
    text = f"{show_bytes(balance.mean)} / {show_bytes(balance.most)}: mean over maximum of all GPUs"
    yield Derivation(of="in training", value=balance.score, arithmetic=text)


_KINDS: tuple[TensorKind, ...] = (
    "embedding",
    "attention",
    "norms",
    "routers",
    "experts",
    "shared",
    "dense",
    "aggregation",
    "head",
)


def _own_share(context: AuditContext, *, is_headroom: bool) -> Iterator[Derivation]:
    """The stated maximum over the stated memory of a GPU: the document against itself."""
    most, memory = context.stated("max_memory"), context.stated("gpu_memory")
    if most is None or memory is None:
        return
    share, text = most / memory, f"{show_bytes(most)} / {show_bytes(memory)}"
    if is_headroom:
        share, text = 1 - share, f"1 − {text}"
    yield Derivation(of="by its own figures", value=share, arithmetic=f"{text} = {100 * share:.5g} %")


def _peak(context: AuditContext, stage: Stage) -> Derivation:
    fullest = fullest_ranks(context.plan)[context.plan.stages.index(stage)]
    parts = " + ".join(
        f"{name.replace('_', ' ')} {show_bytes(count)}" for name, count in fullest.by_cause if count
    )
    memory = context.strategy.cluster.gpu.memory
    return Derivation(
        of="in training, at its peak",
        value=fullest.peak_bytes,
        arithmetic=f"{fullest.fullest.phase}: {parts}",
        relation="at most",
        exceeds=fullest.peak_bytes > memory,
        why=f"a GPU has {show_bytes(memory)}" if fullest.peak_bytes > memory else "",
    )


def _weights(context: AuditContext, stage: Stage, kind: TensorKind, what: str) -> Iterator[Derivation]:
    """A stage's own matrices on one GPU, in the strategy's precision and in fp32."""
    count, stored = held(context, stage, kind), _stored(context)
    precision = context.strategy.training.precision
    for name, each in dict.fromkeys(((precision, stored), ("fp32", FP32_BYTES))):
        yield _meant(f"{count:,} parameters × {each}", count * each, f"{what}, {name}")


def _meant(text: str, value: int, of: str) -> Derivation:
    return Derivation(of=of, value=value, arithmetic=text, decides=False)


def _stored(context: AuditContext) -> int:
    """Bytes of a weight as it is evaluated."""
    parallel, training = context.strategy.parallel, context.strategy.training
    return bytes_per_parameter(training.precision, parallel.zero_stage, is_training=False).weight


def _fullest_stage(context: AuditContext) -> Stage:
    return context.plan.stage_of(fullest_rank(context.plan).rank)
