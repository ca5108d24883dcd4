"""Figures of memory: what a GPU holds at its peak; beside it the weights that a stated figure may mean."""

from collections.abc import Iterator

from planner.audit.layout_claims import expert_layer_parameters, held
from planner.audit.verdicts import Case, Reading, show_bytes
from planner.counts.parameters import Kind
from planner.memory.optimizer_state import FP32_BYTES, bytes_per_parameter
from planner.memory.rank_memory import RankMemory, fullest_ranks
from planner.plan.plan import Plan
from planner.prediction.load_balance import memory_balance
from planner.topology.placement import Stage


def embedding_memory(case: Case) -> Iterator[Reading]:
    yield _peak(case, case.embedding)
    yield from _weights(case, case.embedding, "embedding", "its part of the embedding")


def expert_memory(case: Case) -> Iterator[Reading]:
    yield _peak(case, case.experts)
    layer = expert_layer_parameters(case)
    text = f"{layer:,} parameters × {FP32_BYTES}"
    yield _meant(text, layer * FP32_BYTES, "experts of one layer, fp32")
    yield from _weights(case, case.experts, "experts", f"experts of all {len(case.experts.layers)} layers")


def aggregation_memory(case: Case) -> Iterator[Reading]:
    yield _peak(case, case.output)
    hidden = case.strategy.model.hidden_size
    if case.strategy.model.aggregation == "linear":
        whole = hidden * hidden * FP32_BYTES
        text = f"the whole matrix, not one GPU's part: {hidden} × {hidden} × {FP32_BYTES}"
        yield _meant(text, whole, "the whole matrix, fp32")
        yield from _weights(case, case.output, "aggregation", "its part of the aggregation")


def max_memory(case: Case) -> Iterator[Reading]:
    yield _peak(case, _fullest_stage(case))
    stage = _fullest_stage(case)
    weight = _stored(case)
    count = sum(held(case, stage, kind) for kind in _KINDS)
    text = f"{count:,} parameters × {weight}: the weights alone, of all kinds, on one GPU of {stage.name}"
    precision = case.strategy.training.precision
    yield _meant(text, count * weight, f"weights alone, {precision}")


def memory_share(case: Case) -> Iterator[Reading]:
    yield from _own_share(case, is_headroom=False)
    peak, memory = _fullest(case.plan).peak_bytes, case.strategy.cluster.gpu.memory
    text = f"{show_bytes(peak)} / {show_bytes(memory)}, the fullest GPU at its peak"
    yield Reading(of="in training", value=peak / memory, arithmetic=text)


def memory_headroom(case: Case) -> Iterator[Reading]:
    yield from _own_share(case, is_headroom=True)
    peak, memory = _fullest(case.plan).peak_bytes, case.strategy.cluster.gpu.memory
    text = f"1 − {show_bytes(peak)} / {show_bytes(memory)}, the fullest GPU at its peak"
    yield Reading(of="in training", value=1 - peak / memory, arithmetic=text, relation="at least")


def balance_of_memory(case: Case) -> Iterator[Reading]:
    own = [case.stated(f"{name}_memory") for name in ("embedding", "expert", "aggregation")]
    stages = case.plan.stages
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
        yield Reading(of="by its own figures", value=mean / max(values), arithmetic=text)
    balance = memory_balance(case.plan)
    text = f"{show_bytes(balance.mean)} / {show_bytes(balance.most)}: mean over maximum of all GPUs"
    yield Reading(of="in training", value=balance.score, arithmetic=text)


_KINDS: tuple[Kind, ...] = (
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


def _own_share(case: Case, *, is_headroom: bool) -> Iterator[Reading]:
    """The stated maximum over the stated memory of a GPU: the document against itself."""
    most, memory = case.stated("max_memory"), case.stated("gpu_memory")
    if most is None or memory is None:
        return
    share, text = most / memory, f"{show_bytes(most)} / {show_bytes(memory)}"
    if is_headroom:
        share, text = 1 - share, f"1 − {text}"
    yield Reading(of="by its own figures", value=share, arithmetic=f"{text} = {100 * share:.5g} %")


def _peak(case: Case, stage: Stage) -> Reading:
    fullest = fullest_ranks(case.plan)[case.plan.stages.index(stage)]
    parts = " + ".join(
        f"{name.replace('_', ' ')} {show_bytes(count)}" for name, count in fullest.by_cause if count
    )
    memory = case.strategy.cluster.gpu.memory
    return Reading(
        of="in training, at its peak",
        value=fullest.peak_bytes,
        arithmetic=parts,
        relation="at most",
        exceeds=fullest.peak_bytes > memory,
        why=f"a GPU has {show_bytes(memory)}" if fullest.peak_bytes > memory else "",
    )


def _weights(case: Case, stage: Stage, kind: Kind, what: str) -> Iterator[Reading]:
    """A stage's own matrices on one GPU, in the strategy's precision and in fp32."""
    count, stored = held(case, stage, kind), _stored(case)
    precision = case.strategy.training.precision
    for name, each in dict.fromkeys(((precision, stored), ("fp32", FP32_BYTES))):
        yield _meant(f"{count:,} parameters × {each}", count * each, f"{what}, {name}")


def _meant(text: str, value: int, of: str) -> Reading:
    return Reading(of=of, value=value, arithmetic=text, decides=False)


def _stored(case: Case) -> int:
    """Bytes of a weight as it is evaluated."""
    parallel, training = case.strategy.parallel, case.strategy.training
    return bytes_per_parameter(training.precision, parallel.zero_stage, is_training=False).weight


def _fullest(plan: Plan) -> RankMemory:
    return max(fullest_ranks(plan), key=lambda memory: memory.peak_bytes)


def _fullest_stage(case: Case) -> Stage:
    return case.plan.stage_of(_fullest(case.plan).rank)
