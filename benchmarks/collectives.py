"""Times collectives of gloo between ranks of this host: all groups of a size at once, as in a step."""

import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

KINDS = ("all_to_all", "all_reduce", "all_gather")
SIZES = (64, 4_096, 65_536, 524_288, 4_194_304)  # bytes of a rank: sent, summed, or gathered
_BUDGET_S, _REPEATS = 0.4, 40


def measure(rank: int, world: int, group_size: int) -> dict[str, list[tuple[float, float]]]:
    """kind -> (bytes, seconds on the slowest rank), over consecutive groups. Collective."""
    groups = [
        dist.new_group(list(range(first, first + group_size)), timeout=timedelta(minutes=5))
        for first in range(0, world, group_size)
    ]
    group = groups[rank // group_size]
    return {
        kind: [(float(size), _seconds(_work(kind, size, group_size, group))) for size in SIZES]
        for kind in KINDS
    }


def _work(kind: str, size: int, group_size: int, group: dist.ProcessGroup) -> Callable[[], object]:
    elements = max(group_size, size // 4 // group_size * group_size)
    whole = torch.zeros(elements)
    if kind == "all_to_all":
        received = torch.empty_like(whole)
        return lambda: dist.all_to_all_single(received, whole, group=group)
    if kind == "all_reduce":
        return lambda: dist.all_reduce(whole, group=group)
    share = torch.zeros(elements // group_size)
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return lambda: gather(whole, share, group=group)


def _seconds(work: Callable[[], object]) -> float:
    """The lower quartile of one rank, the largest over the world; every rank repeats it as often."""
    began = time.perf_counter()
    for _ in range(3):
        work()
    each = torch.tensor([(time.perf_counter() - began) / 3])
    dist.all_reduce(each, op=dist.ReduceOp.MAX)
    found = []
    for _ in range(max(5, min(_REPEATS, int(_BUDGET_S / float(each))))):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    slowest = torch.tensor([sorted(found)[len(found) // 4]], dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return float(slowest)
