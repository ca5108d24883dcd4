"""Memory of a rank: its phases, and the fullest of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from planner.counts.payload import payload_bytes
from planner.counts.rank_workload import BALANCED, ExpertImbalance
from planner.memory.activations import StageActivations, stage_activations
from planner.memory.gradients import gradient_memory
from planner.memory.optimizer_state import (
    FP32_BYTES,
    FlatGroup,
    StaticState,
    groups_of,
    static_state,
    update_chunk_elements,
)
from planner.memory.phases import HeldState, PhaseMemory, step_moments
from planner.plan.ds_config import bucket_elements, gradient_dtype
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
_REGISTER_BYTES = 64  # of AVX-512


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """Bytes of one rank in each phase of a step. Between steps they are exact, else upper bounds."""

    rank: int
    phases: tuple[PhaseMemory, ...]

    @cached_property
    def fullest(self) -> PhaseMemory:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def static_bytes(self) -> int:
        """What is held between steps."""
        return self.fullest.weights + self.fullest.masters + self.fullest.moments

    @property
    def peak_bytes(self) -> int:
        return self.fullest.total

    @property
    def by_cause(self) -> tuple[tuple[str, int], ...]:
        """At the fullest moment."""
        return self.fullest.by_cause


def rank_memory(plan: Plan, rank: int, imbalance: ExpertImbalance = BALANCED) -> RankMemory:
    """What fills the memory of a rank."""
    stage = plan.stage_of(rank)
    place = plan.stages.index(stage)
    held, work = held_state(plan, stage, rank), work_memory(plan, stage, imbalance)
    state, overhead, buffers = held.state, overhead_bytes(plan), transfer_buffers(plan, place)
    copy = saved_copy_bytes(plan, state) if plan.strategy.cluster.gpu.is_cpu else 0
    moments = step_moments(held, work, in_flight(plan, place), plan.batch.accumulation)
    phases = [
        PhaseMemory(
            phase=moment.phase,
            weights=state.weights,
            masters=state.masters,
            moments=state.moments,
            gradients=moment.gradients,
            sums=moment.sums,
            activations=moment.activations,
            logits=moment.logits,
            temporaries=moment.temporaries,
            p2p_buffers=buffers if moment.phase != "update" else 0,
            buckets=moment.buckets,
            saved_copy=copy,
            overhead=overhead,
        )
        for moment in moments
    ]
    between = PhaseMemory(
        phase="between steps",
        weights=state.weights,
        masters=state.masters,
        moments=state.moments,
        saved_copy=copy,
        overhead=overhead,
    )
    return RankMemory(rank=rank, phases=(*phases, between))


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


def held_state(plan: Plan, stage: Stage, rank: int | None = None) -> HeldState:
    """What a rank holds from step to step, its gradients, its update; None: a stage's fullest rank."""
    ranks = _end_ranks(stage) if rank is None else [rank]
    groups = groups_of(plan, stage, stage.dense.coordinate("tp", ranks[0]))
    places = [_places(stage, each) for each in ranks]
    return HeldState(
        state=static_state(plan, stage, groups),
        gradients=gradient_memory(plan, groups, places, bucket_elements(plan)),
        update_temporaries=_update_temporaries(plan, groups),
        replayed=_replayed_gradients(plan, groups),
    )


def _replayed_gradients(plan: Plan, groups: Sequence[FlatGroup]) -> int | None:
    """A GPU's go to the host's memory."""
    if plan.strategy.runtime.replay_every is None:
        return None
    elements = sum(group.num_elements for group in groups)
    return plan.strategy.training.element_bytes * elements if plan.strategy.cluster.gpu.is_cpu else 0


def work_memory(plan: Plan, stage: Stage, imbalance: ExpertImbalance = BALANCED) -> StageActivations:
    """What micro-batches take on a stage's fullest rank."""
    work = stage_activations(
        plan, stage, imbalance, num_boundary_chunks(plan) if stage.contents.output else 1
    )
    is_paired = plan.strategy.runtime.overlap_all_to_all and plan.batch.accumulation > 1
    return replace(work, beside=work.forward) if is_paired else work


def in_flight(plan: Plan, place: int) -> int:
    """Micro-batches whose activations the stage at `place` keeps: stage i of n has n - i of them (1F1B).

    One more where another is computed while one is exchanged (runtime.overlap_all_to_all).
    """
    more = int(plan.strategy.runtime.overlap_all_to_all)
    return min(plan.batch.accumulation, len(plan.stages) - place + more)


def _update_temporaries(plan: Plan, groups: Sequence[FlatGroup]) -> int:
    """What runtime/training/fused_update.py makes: on a CPU, of weight, gradient and moments a tensor of a
    register's size for the end of each parameter; and bf16 gradients in fp32, a few at a time."""
    is_cpu = plan.strategy.cluster.gpu.is_cpu
    found = 0
    for group in groups:
        ends = _REGISTER_BYTES * (len(group.tensors) + 1) if is_cpu else 0
        wide = 0
        if gradient_dtype(plan) == "bf16":
            wide = FP32_BYTES * min(update_chunk_elements(is_cpu=is_cpu), group.partition) + ends
        found = max(found, 4 * ends + wide)
    return found


def _places(stage: Stage, rank: int) -> tuple[int, int]:
    """A rank's place among its data-parallel and among its expert-data-parallel peers."""
    edp = 0 if stage.expert is None else stage.expert.coordinate("edp", rank)
    return stage.dense.coordinate("data", rank), edp


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
    found = elements * strategy.training.seq_length * strategy.training.element_bytes
    if strategy.runtime.fp8_payload:  # packed beside: codes, scales, and what packing makes of one chunk
        found += payload_bytes(strategy, 2 * elements, elements) * strategy.training.seq_length
    return found


def overhead_bytes(plan: Plan) -> int:
    """What the framework takes outside of tensors."""
    return CPU_OVERHEAD_BYTES if plan.strategy.cluster.gpu.is_cpu else GPU_OVERHEAD_BYTES


def saved_copy_bytes(plan: Plan, state: StaticState) -> int:
    """Of the host's memory, for one rank: fp32 weights and both moments of its share, under async_save."""
    return state.moments + state.moments // 2 if plan.strategy.output.async_save else 0


def num_boundary_chunks(plan: Plan) -> int:
    """Into how many chunks the last stage cuts the sequences of a micro-step, if it has no layers."""
    stages = plan.stages
    if len(stages) == 1:
        return 1
    return len(split_into_chunks(stages[-1], stages[-2], plan.batch.global_batch // plan.batch.accumulation))
