"""Memory model: peak bytes of the fullest rank of many plans of one model, which share what is alike."""

from collections.abc import Hashable

from planner.counts.forced_load import forced_load
from planner.memory.activations import StageActivations
from planner.memory.phases import HeldState, most_bytes
from planner.memory.rank_memory import (
    held_state,
    in_flight,
    num_boundary_chunks,
    overhead_bytes,
    transfer_buffers,
    work_memory,
)
from planner.plan.ds_config import bucket_elements, sums_locally, zero_stage
from planner.plan.plan import Plan


class MemoryModel:
    """Peaks of plans that differ in degrees, micro_batch, ZeRO stage and recompute only."""

    def __init__(self) -> None:
        self._buckets: dict[Hashable, int] = {}
        self._held: dict[Hashable, HeldState] = {}
        self._work: dict[Hashable, StageActivations] = {}
        self._transfers: dict[Hashable, int] = {}
        self._peaks: dict[Hashable, int] = {}

    def peak_bytes(self, plan: Plan, limit: int) -> int:
        """Of the fullest rank, as fullest_ranks has it; or, if over `limit`, of any rank that is."""
        layout, most, overhead = plan.layout, 0, overhead_bytes(plan)
        zero, accumulation = zero_stage(plan), plan.batch.accumulation
        sequences = plan.batch.global_batch // accumulation
        sums = sums_locally(plan)
        recompute, bucket = plan.strategy.runtime.recompute, self._bucket(plan)
        for place, widths in layout.fullest:
            one = layout.order[place]
            # The last stage's chunks are those of its boundary; the sequences of a step are one number.
            chunks = num_boundary_chunks(plan) if one.stage.contents.output else 1
            flying = in_flight(plan, place)
            held_key = (one.sharding, zero, accumulation > 1, sums, bucket)
            forced = forced_load(plan, one.stage)
            work_key = (one.shape, sequences // one.data.size, recompute, chunks, forced)
            key = (held_key, work_key, flying, widths, accumulation)
            peak = self._peaks.get(key)
            if peak is None:
                peak = self._peak(plan, place, limit - overhead, (held_key, work_key, widths))
                if peak <= limit - overhead:  # else it may be a lower bound
                    self._peaks[key] = peak
            most = max(most, peak + overhead)
            if most > limit:
                break
        return most

    def _peak(self, plan: Plan, place: int, limit: int, keys: tuple[Hashable, Hashable, int]) -> int:
        """Of the ranks of a stage; what is over `limit` may be less than all of it."""
        held_key, work_key, widths = keys
        stage, accumulation = plan.layout.order[place].stage, plan.batch.accumulation
        held = self._held.get(held_key)
        if held is None:
            held = self._held[held_key] = held_state(plan, stage)
        state = held.state.total
        least = state + held.gradients.update
        if least > limit:
            return least
        work = self._work.get(work_key)
        if work is None:
            work = self._work[work_key] = work_memory(plan, stage)
        key = (widths, plan.batch.global_batch // accumulation, accumulation > 1)
        buffers = self._transfers.get(key)
        if buffers is None:
            buffers = self._transfers[key] = transfer_buffers(plan, place)
        return state + most_bytes(held, work, in_flight(plan, place), accumulation, buffers)

    def _bucket(self, plan: Plan) -> int:
        parallel = plan.strategy.parallel
        key = (parallel.placement, parallel.ep, parallel.tp)
        if key not in self._buckets:
            self._buckets[key] = bucket_elements(plan)
        return self._buckets[key]
