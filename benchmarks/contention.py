"""Contention of ranks on one host: how much slower each computes beside the others, and how late they meet.

Every rank does the same work, GEMMs and elementwise operations whose data come from memory. Ranks that share
cores, caches and memory need more time for it than one that is alone, and do not end at the same moment: who
is ready waits for the last in the next collective, the longer, the more work lies between two of them.
"""

import time

import torch
import torch.distributed as dist

from benchmarks.collectives import added_s, work_of

WORK_S = (5e-4, 2e-3, 8e-3, 3.2e-2)  # a core's time between two collectives
_MEASURED_S, _TURNS = 0.5, 5


def measure() -> tuple[float, float, list[tuple[float, float]]]:
    """Of all ranks of the world at once. Collective.

    Returns:
        Seconds of a unit of work by the clock, mean over ranks and lower quartile of some turns. The
        same in a core's time. And (seconds of work, seconds that ranks wait for each
        other after it).
    """
    unit = work_of(WORK_S[1])
    walls, busy = [], []
    for _ in range(_TURNS):
        dist.barrier()
        began, began_cpu, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < _MEASURED_S:
            unit()
            count += 1
        wall, cpu = (time.perf_counter() - began) / count, (time.process_time() - began_cpu) / count
        found = torch.tensor([wall, cpu], dtype=torch.float64)
        dist.all_reduce(found)
        found /= dist.get_world_size()
        walls.append(float(found[0]))
        busy.append(float(found[1]))
    signal = torch.zeros(16)
    waits = [(work, added_s(lambda: dist.all_reduce(signal), work_of(work))) for work in WORK_S]
    return sorted(walls)[_TURNS // 4], sorted(busy)[_TURNS // 4], waits
