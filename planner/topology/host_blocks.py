"""Host blocks: how many consecutive ranks each host carries, and whether a TP group lies within one."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby

from planner.strategy.cluster import Cluster
from planner.strategy.parallel import Parallel

HostRuns = tuple[tuple[int, int], ...]  # ranks of a host, number of such hosts; the fullest first


def host_slots(cluster: Cluster, world: int) -> tuple[int, ...]:
    """How many ranks each host that is not a spare may run, in the order of the hosts."""
    usable = cluster.hosts.count - cluster.spare_hosts
    slots = cluster.slots[:usable]
    if cluster.gpu.is_cpu and world > sum(slots):
        return (-(-world // usable),) * usable  # slots limit GPUs, not processes
    return slots


def host_runs(slots: Sequence[int]) -> HostRuns:
    """Equal hosts together, in the order in which they get ranks: the fullest first."""
    return tuple((size, len(list(run))) for size, run in groupby(sorted(slots, reverse=True)))


def by_host(ranks: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Some ranks, in ascending order, apart by host; `sizes`: ranks of each host, in the order of hosts."""
    ends = list(accumulate(sizes))
    return [tuple(members) for _, members in groupby(ranks, lambda rank: bisect_right(ends, rank))]


def find_split_tp_group(parallel: Parallel, hosts: HostRuns) -> range | None:
    """The ranks of a TP group that lies on several hosts; None if there is none."""
    tp = parallel.tp
    for first, last in _blocks_with_tp(parallel) if tp > 1 else ():
        start = 0
        for size, number in hosts:
            # Of equal hosts two ends are enough: where tp divides both, it divides all.
            k = max(1, (first - start) // size + 1)
            for end in (start + k * size, start + (k + 1) * size):
                cut = (end - first) % tp
                if cut and end <= min(last, start + number * size):
                    return range(end - cut, end - cut + tp)
            start += number * size
    return None


def _blocks_with_tp(parallel: Parallel) -> Iterator[tuple[int, int]]:
    """First and last rank of each block of consecutive TP groups (placement.py)."""
    p = parallel
    if p.placement == "colocated":
        yield 0, p.pp * p.dp * max(p.ep, p.tp) - 1
        return
    ends, experts = p.dp * p.tp, p.pp * p.dp * p.ep
    first_embedding = experts if p.rank_order == "compact" else 0
    yield first_embedding, first_embedding + ends - 1
    yield experts + ends, experts + 2 * ends - 1
