"""Times of gloo collectives between ranks of this host under step conditions: after computation.

A collective in an empty loop finds its peers waiting and its data in cache. In a step it finds neither, and
on a host with more ranks than cores its peers may not even be running. So its time is what it adds to a
loop of computation, all groups of a size at once.
"""

import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

KINDS = ("all_to_all", "all_reduce", "all_gather", "send")
SIZES = (64, 4_096, 65_536, 524_288, 4_194_304)  # bytes of a rank: sent, summed, gathered, or of one message
# Between two collectives a rank of a small model computes for some milliseconds.
_WORK_S = 2e-3
_WORK_ROWS, _WORK_WIDTH, _WORK_TENSORS = 1_024, 64, 48  # 12 MB that take turns: more than a core's cache
_BATCH_S, _BATCHES = 0.12, 4  # seconds of one batch of repetitions, and how many of each are made

TimedCall = Callable[[], object]


def measure(rank: int, world: int, group_size: int) -> dict[str, list[tuple[float, float]]]:
    """kind -> (bytes, seconds), over consecutive groups. Collective.

    `send`: one direction of a message between neighbors, measured in groups of two.
    """
    groups = [
        dist.new_group(list(range(first, first + group_size)), timeout=timedelta(minutes=5))
        for first in range(0, world, group_size)
    ]
    group = groups[rank // group_size]
    work = work_of(_WORK_S)
    found: dict[str, list[tuple[float, float]]] = {}
    for kind in KINDS if group_size == 2 else KINDS[:-1]:
        points = [
            (float(size), added_s(_collective(kind, size, rank, group_size, group), work)) for size in SIZES
        ]
        found[kind] = never_slower_when_smaller(points)
    return found


def never_slower_when_smaller(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points in ascending order of size, none slower than a larger one: a slower point was disturbed."""
    least = float("inf")
    found = []
    for size, seconds in reversed(points):
        least = min(least, seconds)
        found.append((size, least))
    return found[::-1]


def _collective(kind: str, size: int, rank: int, group_size: int, group: dist.ProcessGroup) -> TimedCall:
    elements = max(group_size, size // 4 // group_size * group_size)
    whole = torch.zeros(elements)
    if kind == "all_to_all":
        received = torch.empty_like(whole)
        return lambda: dist.all_to_all_single(received, whole, group=group)
    if kind == "all_reduce":
        return lambda: dist.all_reduce(whole, group=group)
    if kind == "all_gather":
        share = torch.zeros(elements // group_size)
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        return lambda: gather(whole, share, group=group)
    if rank % 2 == 0:
        return lambda: dist.send(whole, dst=rank + 1, group=group)
    return lambda: dist.recv(whole, src=rank - 1, group=group)


def work_of(seconds: float) -> TimedCall:
    """GEMMs and elementwise operations that take so much of a core's time on every rank. Collective."""
    tensors = [torch.rand(_WORK_ROWS, _WORK_WIDTH) for _ in range(_WORK_TENSORS)]
    weight = torch.rand(_WORK_WIDTH, _WORK_WIDTH) / _WORK_WIDTH

    def some(repeats: int) -> None:
        for _ in range(repeats):
            a, b = tensors.pop(0), tensors[0]
            tensors.append(torch.sigmoid((a * b + a) @ weight))

    some(_WORK_TENSORS)
    began = time.process_time()
    some(4 * _WORK_TENSORS)
    each = torch.tensor([(time.process_time() - began) / (4 * _WORK_TENSORS)], dtype=torch.float64)
    dist.all_reduce(each)  # every rank works equally much
    repeats = max(1, round(seconds / (float(each) / dist.get_world_size())))
    return lambda: some(repeats)


def added_s(collective: TimedCall, work: TimedCall) -> float:
    """The time that a collective adds to work: minimum over batches of the mean, minus that of work alone.

    Work alone is timed again with every collective, because disturbances of the machine come and go.
    """

    def both() -> None:
        work()
        collective()

    repeats = max(4, int(_BATCH_S / _mean_s(both, 3)))
    together_s, alone_s = [], []
    for _ in range(_BATCHES):
        together_s.append(_mean_s(both, repeats))
        alone_s.append(_mean_s(work, repeats))
    return max(1e-6, min(together_s) - min(alone_s))


def _mean_s(action: TimedCall, repeats: int) -> float:
    """Seconds of one of `repeats`, from when all ranks begin to when all are done, on the slowest."""
    dist.barrier()
    began = time.perf_counter()
    for _ in range(repeats):
        action()
    dist.barrier()
    slowest = torch.tensor([(time.perf_counter() - began) / repeats], dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return float(slowest)
