"""Memory of a rank by cause, and its limit: state to the byte, the rest as upper bounds."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from planner.counts import activation_bytes
from planner.counts.module_flops import end_modules, layer_modules
from planner.counts.rank_workload import BALANCED, ExpertImbalance, RankWorkload, rank_workload
from planner.memory.gradient_peak import gradient_bytes
from planner.memory.optimizer_state import FP32_BYTES, FlatGroup, StaticState, groups_of, static_state
from planner.plan import ds_config
from planner.plan.ds_config import zero_stage
from planner.plan.plan import Plan
from planner.topology.placement import Stage
from planner.topology.stage_boundary import count_buffer_elements, split_into_chunks

# What a GPU rank holds that no tensor is: the CUDA context with the kernels of torch and its libraries, and
# NCCL's buffers. 1.06 GB without, 4.34 GB with the buffers of one all-to-all group of 8, both read on an H100
# beside PyTorch's own memory (NVIDIA/nccl#1685, 2025); 1.6 GB with one communicator and 6 GB with three or
# more in another report (NVIDIA/nccl#864, 2023). To be replaced by a measurement on the cluster.
GPU_OVERHEAD_BYTES = 4_340_000_000
GPU_OVERHEAD_RANGE = (1_060_000_000, 6_000_000_000)
# Resident bytes of one CPU rank of a tiny model after two steps: Python, torch 2.13, DeepSpeed 0.19.8 and
# transformers 5.23 (measured 2026-11-23 on Linux with gloo; 111 MB of it are shared with other ranks).
CPU_OVERHEAD_BYTES = 434_000_000
# DeepSpeed 0.19.8 without ZeRO flattens gradients in pieces of this many elements (engine.py:151).
_PIECE_ELEMENTS = 500_000_000


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """Bytes of one rank by cause. weights, masters and moments are exact, the others bounds from above.

    gradients: at their peak, before the update. activations: kept from forward to backward, of all
    micro-batches in flight. p2p_buffers: on their way to and from other stages. dispatch_buffers: rows on
    their way to experts and back. logits: one chunk of them, and the gradients that the loss makes at once.
    buckets: DeepSpeed's reduction buffers. overhead: what the framework takes outside of tensors.
    """

    rank: int
    weights: int
    masters: int
    moments: int
    gradients: int
    activations: int
    p2p_buffers: int
    dispatch_buffers: int
    logits: int
    buckets: int
    overhead: int

    @property
    def static_bytes(self) -> int:
        """What is held between steps."""
        return self.weights + self.masters + self.moments

    @property
    def peak_bytes(self) -> int:
        """All causes at their own peaks, as if these came together."""
        return sum(count for _, count in self.by_cause)

    @property
    def by_cause(self) -> tuple[tuple[str, int], ...]:
        return tuple((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "rank")


@dataclass(frozen=True, kw_only=True)
class StateMemory:
    """What a micro-batch's size does not change: state, gradients at their peak, buckets."""

    state: StaticState
    gradients: int
    buckets: int

    @property
    def total(self) -> int:
        return self.state.total + self.gradients + self.buckets


@dataclass(frozen=True, kw_only=True)
class WorkMemory:
    """What micro-batches take: `kept` of each one in flight, the rest once.

    recomputed: activations of the one layer that is computed again.
    """

    kept: int
    recomputed: int
    dispatch_buffers: int
    logits: int

    def total(self, in_flight: int) -> int:
        return self.kept * in_flight + self.recomputed + self.dispatch_buffers + self.logits


def rank_memory(plan: Plan, rank: int, imbalance: ExpertImbalance = BALANCED) -> RankMemory:
    """What fills the memory of a rank."""
    stage = plan.stage_of(rank)
    held, work = state_memory(plan, stage, rank), work_memory(plan, stage, imbalance)
    place = plan.stages.index(stage)
    return RankMemory(
        rank=rank,
        weights=held.state.weights,
        masters=held.state.masters,
        moments=held.state.moments,
        gradients=held.gradients,
        activations=work.kept * in_flight(plan, place) + work.recomputed,
        p2p_buffers=transfer_buffers(plan, place),
        dispatch_buffers=work.dispatch_buffers,
        logits=work.logits,
        buckets=held.buckets,
        overhead=overhead_bytes(plan),
    )


def fullest_ranks(plan: Plan, imbalance: ExpertImbalance = BALANCED) -> tuple[RankMemory, ...]:
    """The fullest rank of each stage: of its TP partners the first one, which has the longest shares."""
    found = []
    for stage in plan.stages:
        memories = [rank_memory(plan, rank, imbalance) for rank in _end_ranks(stage)]
        found.append(max(memories, key=lambda memory: memory.peak_bytes))
    return tuple(found)


def _end_ranks(stage: Stage) -> list[int]:
    """Ranks of which one is the stage's fullest: data-parallel peers differ in gradients only, and of these
    the first or the last has the most."""
    return sorted({stage.dense.first_rank, stage.dense.last_rank + 1 - stage.dense.size("tp")})


def state_memory(plan: Plan, stage: Stage, rank: int | None = None) -> StateMemory:
    """What a rank holds from step to step, and at an update; None: a stage's fullest rank."""
    bucket = ds_config.BUCKET_ELEMENTS
    ranks = _end_ranks(stage) if rank is None else [rank]
    tp_rank = stage.dense.coordinate("tp", ranks[0])
    groups = groups_of(plan, stage, tp_rank)
    places = [_places(stage, each) for each in ranks]
    return StateMemory(
        state=static_state(plan, stage, groups),
        gradients=gradient_bytes(plan, stage, groups, tp_rank, places, bucket),
        buckets=_buckets(plan, groups, bucket),
    )


def work_memory(plan: Plan, stage: Stage, imbalance: ExpertImbalance = BALANCED) -> WorkMemory:
    """What micro-batches take on a stage's fullest rank."""
    p = rank_workload(plan, stage, imbalance)
    kept, recomputed = _kept_bytes(plan, stage, p)
    return WorkMemory(
        kept=kept,
        recomputed=recomputed,
        dispatch_buffers=_dispatch_buffers(p) if stage.num_layers(p.model.first_dense_layers)[1] else 0,
        logits=_logits(p, num_chunks(plan)) if stage.contents.output else 0,
    )


def in_flight(plan: Plan, place: int) -> int:
    """Micro-batches whose activations the stage at `place` keeps: stage i of n has n - i of them (1F1B)."""
    return min(plan.batch.accumulation, len(plan.stages) - place)


def _places(stage: Stage, rank: int) -> tuple[int, int]:
    """A rank's place among its data-parallel and among its expert-data-parallel peers."""
    edp = 0 if stage.expert is None else stage.expert.coordinate("edp", rank)
    return stage.dense.coordinate("data", rank), edp


def _kept_bytes(plan: Plan, stage: Stage, p: RankWorkload) -> tuple[int, int]:
    """Bytes kept of each micro-batch in flight, and those of the one layer that is computed again."""
    dense, moe = stage.num_layers(p.model.first_dense_layers)
    hidden = p.element_bytes * p.tokens * p.model.hidden_size
    kept = recomputed = 0
    if stage.layers:
        of_all, of_dense, of_moe = _layer_bytes(p)
        rotation = activation_bytes.rotation(p)  # one for all layers of a stage
        if plan.strategy.runtime.recompute == "layer":
            # A layer keeps its input; the one that is computed again has all of it for that moment.
            kept = (dense + moe) * hidden
            recomputed = of_all + rotation // (dense + moe) + of_dense * (dense > 0) + of_moe * (moe > 0)
        else:
            kept = (dense + moe) * of_all + rotation + dense * of_dense + moe * of_moe
    ends = end_modules(p, replace(stage.contents, layers=()))
    kept += sum(module.activation_bytes for module in ends if module.kind != "head")
    kept += hidden * (not stage.contents.embedding)  # what came is the input of what comes first
    return kept, recomputed


@lru_cache(maxsize=4096)
def _layer_bytes(p: RankWorkload) -> tuple[int, int, int]:
    """Kept of one layer: by the modules that every layer has, a dense layer's own, a MoE layer's own."""
    of_all, of_dense, of_moe = -activation_bytes.rotation(p), 0, 0  # which the attention module holds too
    for module in layer_modules(p, min(1, p.model.first_dense_layers), min(1, p.model.num_moe_layers)):
        if module.kind in ("norms", "attention"):
            of_all += module.activation_bytes
        elif module.kind == "dense":
            of_dense += module.activation_bytes
        else:
            of_moe += module.activation_bytes
    return of_all, of_dense, of_moe


def transfer_buffers(plan: Plan, place: int) -> int:
    """Bytes on their way between the stage at `place` and its neighbours, in both directions."""
    strategy, stages, accumulation = plan.strategy, plan.stages, plan.batch.accumulation
    elements = count_buffer_elements(
        stages[place],
        (*stages[max(0, place - 1) : place], *stages[place + 1 : place + 2]),
        plan.batch.global_batch // accumulation,
        strategy.model.hidden_size,
        accumulation,
    )
    return elements * strategy.training.seq_length * strategy.training.element_bytes


def overhead_bytes(plan: Plan) -> int:
    """What the framework takes outside of tensors."""
    return CPU_OVERHEAD_BYTES if plan.strategy.cluster.gpu.is_cpu else GPU_OVERHEAD_BYTES


def num_chunks(plan: Plan) -> int:
    """Into how many chunks the last stage cuts the sequences of a micro-step, if it has no layers."""
    stages = plan.stages
    if len(stages) == 1:
        return 1
    return len(split_into_chunks(stages[-1], stages[-2], plan.batch.global_batch // plan.batch.accumulation))


def _dispatch_buffers(p: RankWorkload) -> int:
    """Rows in flight of the one layer at work, beside those kept for backward.

    Sent rows live until they are combined; the received ones twice while they are sorted, and as results
    twice again; combining makes one row a route in fp32, twice.
    """
    hidden, a = p.model.hidden_size, p.element_bytes
    copies = 1 if p.model.num_experts == p.ep else 2
    exchange = a * hidden * (p.sent + (2 * copies * p.received if p.ep > 1 else p.received))
    combine = (
        hidden * p.share_tokens * p.model.num_experts_per_tok * (a + 2 * FP32_BYTES) + a * hidden * p.sent
    )
    return max(exchange, combine)


def _logits(p: RankWorkload, num_parts: int) -> int:
    """Gradients of the head's input and weight, made in the forward pass, and the chunk being worked on.

    A stage that takes its sequences in parts keeps a gradient of the weight from each of them.
    Of a chunk live at once: logits as they come, in fp32, and their gradient; of the one before, two of them.
    """
    chunk = min(p.tokens, p.head_chunk_tokens)
    product = p.element_bytes * p.vocabulary * p.model.hidden_size
    more = (num_parts - 1) * FP32_BYTES * p.vocabulary * p.model.hidden_size
    return activation_bytes.head(p) + more + product + 3 * FP32_BYTES * chunk * p.vocabulary


def _buckets(plan: Plan, groups: Sequence[FlatGroup], bucket: int) -> int:
    """The bucket, which DeepSpeed makes whole however small the model is, and the copy that is reduced."""
    element = plan.strategy.training.element_bytes
    sizes = [sum(group.num_elements for group in groups if group.is_expert is kind) for kind in (False, True)]
    largest = max(group.largest for group in groups)
    if zero_stage(plan) == 0:
        return element * min(max(sizes), _PIECE_ELEMENTS + largest)
    copy = min(sum(sizes), max(bucket, largest))
    return element * (bucket + copy)
