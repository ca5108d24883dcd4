"""Memory model: peak bytes of the fullest rank of many plans of one model, which share what is alike."""

from collections.abc import Hashable

from planner.memory.rank_memory import (
    WorkMemory,
    in_flight,
    num_chunks,
    overhead_bytes,
    state_memory,
    transfer_buffers,
    work_memory,
)
from planner.plan.ds_config import zero_stage
from planner.plan.plan import Plan


class MemoryModel:
    """Peaks of plans that differ in degrees, micro_batch, ZeRO stage and recompute only."""

    def __init__(self) -> None:
        self._state: dict[Hashable, int] = {}
        self._work: dict[Hashable, WorkMemory] = {}
        self._transfers: dict[Hashable, int] = {}

    def peak_bytes(self, plan: Plan, limit: int) -> int:
        """Of the fullest rank, as fullest_ranks has it; or, if over `limit`, of any rank that is."""
        layout, most, overhead = plan.layout, 0, overhead_bytes(plan)
        zero, accumulation = zero_stage(plan), plan.batch.accumulation
        sequences = plan.batch.global_batch // accumulation
        recompute = plan.strategy.runtime.recompute
        key: Hashable
        for place, widths in layout.fullest:
            one = layout.order[place]
            key = (widths, sequences, accumulation > 1)
            buffers = self._transfers.get(key)
            if buffers is None:
                buffers = self._transfers[key] = transfer_buffers(plan, place)
            key = (one.sharding, zero, accumulation > 1)
            state = self._state.get(key)
            if state is None:
                state = self._state[key] = state_memory(plan, one.stage).total
            peak = overhead + buffers + state
            if peak <= limit:
                chunks = num_chunks(plan) if one.stage.contents.output else 1
                key = (one.shape, sequences // one.data.size, recompute, chunks)
                work = self._work.get(key)
                if work is None:
                    work = self._work[key] = work_memory(plan, one.stage)
                peak += work.total(in_flight(plan, place))
            most = max(most, peak)
            if most > limit:
                break
        return most
