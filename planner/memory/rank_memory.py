"""What fills the memory of a rank, cause by cause: state to the byte, the rest as bounds from above."""

from dataclasses import dataclass, fields

from planner.counts import activation_bytes
from planner.counts.module_flops import stage_work
from planner.counts.rank_workload import BALANCED, Load, Portion, portion
from planner.memory.gradient_peak import gradient_bytes
from planner.memory.optimizer_state import FP32_BYTES, groups_of, static_state
from planner.plan.ds_config import ds_config, zero_stage
from planner.plan.plan import Plan
from planner.topology.placement import Stage
from planner.topology.stage_boundary import buffer_elements, chunks_of

# What a GPU rank holds that no tensor is: the CUDA context with the kernels of torch and its libraries, and
# NCCL's buffers. 1.06 GB without, 4.34 GB with the buffers of one all-to-all group of 8, both read on an H100
# beside PyTorch's own memory (NVIDIA/nccl#1685, 2025); 1.6 GB with one communicator and 6 GB with three or
# more in another report (NVIDIA/nccl#864, 2023). To be replaced by a measurement on the cluster.
GPU_OVERHEAD_BYTES = 4_340_000_000
GPU_OVERHEAD_RANGE = (1_060_000_000, 6_000_000_000)
# Resident bytes of one CPU rank of a tiny model after two steps: Python, torch 2.13, DeepSpeed 0.19.8 and
# transformers 5.23 (measured 2026-11-23 on Linux with gloo; 111 MB of it are shared with other ranks).
CPU_OVERHEAD_BYTES = 434_000_000
# model/lm_head.py: what one chunk of logits may take, and the fewest tokens of a chunk.
_CHUNK_BYTES = 32 * 2**20
_CHUNK_TOKENS_MIN = 128
# DeepSpeed 0.19.8 without ZeRO flattens gradients in pieces of this many elements (engine.py:151).
_PIECE_ELEMENTS = 500_000_000


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """Bytes of one rank by cause. weights, masters and moments are exact, the others bounds from above.

    gradients: at their peak, before the update. activations: kept from forward to backward, of all
    micro-batches in flight. hand_overs: on their way to and from other stages. dispatch_buffers: rows on
    their way to experts and back. logits: one chunk of them, and the gradients that the loss makes at once.
    buckets: DeepSpeed's reduction buffers. overhead: what the framework takes outside of tensors.
    """

    rank: int
    weights: int
    masters: int
    moments: int
    gradients: int
    activations: int
    hand_overs: int
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


def rank_memory(plan: Plan, rank: int, load: Load = BALANCED) -> RankMemory:
    """What fills the memory of a rank."""
    stage = plan.stage_of(rank)
    tp_rank = stage.dense.coordinate("tp", rank)
    state = static_state(plan, stage, tp_rank)
    bucket = int(ds_config(plan)["zero_optimization"]["reduce_bucket_size"])
    return RankMemory(
        rank=rank,
        weights=state.weights,
        masters=state.masters,
        moments=state.moments,
        gradients=gradient_bytes(plan, stage, tp_rank, _places(stage, rank), bucket),
        activations=kept_activations(plan, stage, load),
        hand_overs=hand_over_buffers(plan, plan.stages.index(stage), plan.batch.accumulation),
        dispatch_buffers=dispatch_bytes(plan, stage, load),
        logits=logits_bytes(plan, stage, load),
        buckets=_buckets(plan, stage, tp_rank, bucket),
        overhead=overhead_bytes(plan),
    )


def fullest_ranks(plan: Plan, load: Load = BALANCED) -> tuple[RankMemory, ...]:
    """The fullest rank of each stage: of its TP partners the first one, which has the longest shares.

    Data-parallel peers hold equally much but for gradients; of these the first and the last are looked at.
    """
    found = []
    for stage in plan.stages:
        memories = [rank_memory(plan, rank, load) for rank in _ends(stage)]
        found.append(max(memories, key=lambda memory: memory.peak_bytes))
    return tuple(found)


def _ends(stage: Stage) -> list[int]:
    return sorted({stage.ranks[0], stage.ranks[-stage.dense.size("tp")]})


def held_bytes(plan: Plan, stage: Stage) -> int:
    """State, gradients and buckets of a stage's fullest rank: what a micro-batch's size does not change."""
    bucket = int(ds_config(plan)["zero_optimization"]["reduce_bucket_size"])
    tp_rank = 0  # has the longest shares
    gradients = max(
        gradient_bytes(plan, stage, tp_rank, _places(stage, rank), bucket) for rank in _ends(stage)
    )
    return static_state(plan, stage, tp_rank).total + gradients + _buckets(plan, stage, tp_rank, bucket)


def _places(stage: Stage, rank: int) -> tuple[int, int]:
    """A rank's place among its data-parallel and among its expert-data-parallel peers."""
    edp = 0 if stage.expert is None else stage.expert.coordinate("edp", rank)
    return stage.dense.coordinate("data", rank), edp


def memory_limit(plan: Plan) -> int:
    """What a rank may take: the device's memory or limits.memory_max, whichever is less."""
    strategy = plan.strategy
    return min(strategy.cluster.gpu.memory, strategy.limits.memory_max)


def kept_activations(plan: Plan, stage: Stage, load: Load = BALANCED) -> int:
    """Bytes kept for backward, of all micro-batches in flight: stage i of n has n − i of them (1F1B)."""
    kept, working = kept_bytes(plan, stage, load)
    return kept * min(plan.batch.accumulation, len(plan.stages) - plan.stages.index(stage)) + working


def kept_bytes(plan: Plan, stage: Stage, load: Load = BALANCED) -> tuple[int, int]:
    """Bytes kept of each micro-batch in flight, and those of the one layer that is computed again."""
    p = portion(plan, stage, load)
    works = [work for work in stage_work(plan, stage, load) if work.kind != "head"]
    boundary = p.element_bytes * p.tokens * p.model.hidden_size  # a hidden state
    kept = sum(work.activation_bytes for work in works)
    working = 0
    if plan.strategy.runtime.recompute == "layer" and stage.layers:
        # A layer keeps its input; the one that is computed again has all of it for that moment.
        working = sum(work.activation_bytes // work.num_layers for work in works if work.is_in_layer)
        kept = len(stage.layers) * boundary + sum(w.activation_bytes for w in works if not w.is_in_layer)
    kept += boundary * (not stage.contents.embedding)  # what came is the input of what comes first
    return kept, working


def hand_over_buffers(plan: Plan, place: int, accumulation: int) -> int:
    """Bytes on their way between the stage at `place` and its neighbours, in both directions.

    `accumulation` may be another than the plan's.
    """
    strategy, stages = plan.strategy, plan.stages
    neighbours = [stages[i] for i in (place - 1, place + 1) if 0 <= i < len(stages)]
    elements = buffer_elements(
        stages[place],
        neighbours,
        plan.batch.global_batch // accumulation,
        strategy.model.hidden_size,
        accumulation,
    )
    element = FP32_BYTES if strategy.training.precision == "fp32" else 2
    return elements * strategy.training.seq_length * element


def overhead_bytes(plan: Plan) -> int:
    """What the framework takes outside of tensors."""
    return CPU_OVERHEAD_BYTES if plan.strategy.cluster.gpu.is_cpu else GPU_OVERHEAD_BYTES


def dispatch_bytes(plan: Plan, stage: Stage, load: Load = BALANCED) -> int:
    """Rows on their way to experts and back."""
    return _dispatch_buffers(portion(plan, stage, load)) if _num_moe_layers(plan, stage) else 0


def logits_bytes(plan: Plan, stage: Stage, load: Load = BALANCED) -> int:
    """One chunk of logits, and the gradients that the loss makes at once."""
    if not stage.contents.output:
        return 0
    return _logits(portion(plan, stage, load), _num_chunks(plan, stage))


def _num_chunks(plan: Plan, stage: Stage) -> int:
    """Into how many a last stage without layers cuts its sequences."""
    if len(plan.stages) == 1:
        return 1
    sequences = plan.batch.global_batch // plan.batch.accumulation
    return len(chunks_of(stage, plan.stages[-2], sequences))


def _num_moe_layers(plan: Plan, stage: Stage) -> int:
    return sum(layer >= plan.strategy.model.first_dense_layers for layer in stage.layers)


def _dispatch_buffers(p: Portion) -> int:
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


def _logits(p: Portion, num_parts: int) -> int:
    """Gradients of the head's input and weight, made in the forward pass, and the chunk being worked on.

    A stage that takes its sequences in parts keeps a gradient of the weight from each of them.
    Of a chunk live at once: logits as they come, in fp32, and their gradient; of the one before, two of them.
    """
    chunk = min(p.tokens, max(_CHUNK_TOKENS_MIN, _CHUNK_BYTES // (FP32_BYTES * p.vocabulary)))
    product = p.element_bytes * p.vocabulary * p.model.hidden_size
    more = (num_parts - 1) * FP32_BYTES * p.vocabulary * p.model.hidden_size
    return activation_bytes.head(p) + more + product + 3 * FP32_BYTES * chunk * p.vocabulary


def _buckets(plan: Plan, stage: Stage, tp_rank: int, bucket: int) -> int:
    """The bucket, which DeepSpeed makes whole however small the model is, and the copy that is reduced."""
    groups = groups_of(plan, stage, tp_rank)
    element = FP32_BYTES if plan.strategy.training.precision == "fp32" else 2
    sizes = [sum(group.num_elements for group in groups if group.is_expert is kind) for kind in (False, True)]
    largest = max(tensor.num_elements for group in groups for tensor in group.tensors)
    if zero_stage(plan) == 0:
        return element * min(max(sizes), _PIECE_ELEMENTS + largest)
    copy = min(sum(sizes), max(bucket, largest))
    return element * (bucket + copy)
