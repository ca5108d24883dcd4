"""Seconds of a collective: from its bytes, how its group lies over hosts, links and latencies.

Two levels: peers of the same host are reached over one link, all others over another. What goes to the two is
counted one after the other: exact where a host's network card serves both, an upper bound otherwise.
Nothing is taken off for congestion between groups, because a strategy's links are each GPU's own.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log2, prod

from planner.hardware.catalog import Device
from planner.plan.plan import Plan
from planner.topology.grid import Grid


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a group lies: `size` ranks, at worst `local` of them on a member's host, on `hosts` hosts."""

    size: int
    local: int
    hosts: int

    @property
    def local_peers(self) -> int:
        return self.local - 1

    @property
    def remote_peers(self) -> int:
        return self.size - self.local


_PAIR = Spread(size=2, local=2, hosts=1)


@dataclass(frozen=True, kw_only=True)
class Network:
    """The links of a rank, one way; `host_size` ranks stand on a full host.

    at_work: how many of them compute at once, on average; None: all.
    """

    intra_bytes_per_s: float
    inter_bytes_per_s: float
    host_size: int
    device: Device
    at_work: float | None = None

    @property
    def ranks_at_work(self) -> float:
        return self.host_size if self.at_work is None else self.at_work

    def measured(self, kind: str, spread: Spread, num_bytes: float) -> float | None:
        """Seconds of a collective that was measured on such a host, if one was.

        Of several, the one nearest in how many ranks the host has at work, then in the group's size; its
        time is scaled by the sizes of the groups.
        """
        if spread.remote_peers or not self.device.collectives:
            return None
        known = [m for m in self.device.collectives if m.kind == kind]
        if not known:
            return None
        nearest = min(
            known, key=lambda m: (abs(m.ranks_on_host - self.ranks_at_work), abs(m.group - spread.size))
        )
        return nearest.seconds(num_bytes) * spread.size / nearest.group


def network_of(plan: Plan, device: Device) -> Network:
    """The network between the ranks of a plan; a host is as full as its first, which is the fullest.

    Links that were measured stand for those of the strategy.
    """
    links = plan.strategy.cluster.links
    return Network(
        intra_bytes_per_s=device.intra_bytes_per_s or links.intra_host * device.link_share,
        inter_bytes_per_s=device.inter_bytes_per_s or links.inter_host * device.link_share,
        host_size=len(plan.hosts[0].ranks),
        device=device,
    )


def spread_of(grid: Grid, axis: str, host_size: int) -> Spread:
    """How the groups of an axis lie over hosts of `host_size` ranks: the worst of them."""
    index = grid.axes.index(axis)
    stride, size = prod(grid.sizes[index + 1 :]), grid.sizes[index]
    return _spread(grid.first_rank % host_size, stride, size, prod(grid.sizes), host_size)


@lru_cache(maxsize=65536)
def _spread(offset: int, stride: int, size: int, num_ranks: int, host_size: int) -> Spread:
    if size == 1:
        return Spread(size=1, local=1, hosts=1)
    block = stride * size
    worst: tuple[int, int] | None = None
    seen: set[int] = set()
    for first in range(offset, offset + num_ranks, block):
        # Groups that begin at the same place of a host lie alike; within a block neighbours do, too.
        if first % host_size in seen:
            continue
        seen.add(first % host_size)
        for start in {first, first + stride - 1}:
            hosts: dict[int, int] = {}
            for rank in range(start, start + block, stride):
                hosts[rank // host_size] = hosts.get(rank // host_size, 0) + 1
            found = (-min(hosts.values()), len(hosts))
            worst = found if worst is None else max(worst, found)
    assert worst is not None
    return Spread(size=size, local=-worst[0], hosts=worst[1])


def slowdown(device: Device, network: Network) -> float:
    """How much longer a rank computes because its host has fewer cores than ranks at work."""
    return max(1.0, network.ranks_at_work / device.cores) if device.cores else 1.0


def world_spread(plan: Plan, network: Network) -> Spread:
    """All ranks as one group."""
    grid = Grid(axes=("world",), sizes=(plan.world_size,), first_rank=0)
    return spread_of(grid, "world", network.host_size)


def all_to_all_bytes(num_bytes: float, spread: Spread) -> float:
    """What leaves a rank that holds `num_bytes` for its group, its own part left out."""
    return num_bytes * (spread.size - 1) / spread.size


def all_to_all_s(num_bytes: float, spread: Spread, network: Network, *, hierarchical: bool = False) -> float:
    """Seconds for one all-to-all in which each rank holds `num_bytes` for the whole group, its own included.

    t = latency + messages · message + bytes to the own host / intra + bytes to others / inter.
    Source: Thakur et al. 2005, section 4. `hierarchical`: all bytes go twice, inside the host and then
    between hosts, in messages that are as many times larger as a host has members.
    """
    if spread.size == 1:
        return 0.0
    measured = network.measured("all_to_all", spread, num_bytes)
    if measured is not None:
        return measured
    device, n = network.device, spread.size
    if hierarchical and spread.remote_peers and spread.local > 1:
        inside = num_bytes * spread.local_peers / spread.local / network.intra_bytes_per_s
        between = num_bytes * spread.remote_peers / n / network.inter_bytes_per_s
        messages = spread.local_peers + spread.hosts - 1
        latency = device.intra_latency_s + device.inter_latency_s
    else:
        inside = num_bytes * spread.local_peers / n / network.intra_bytes_per_s
        between = num_bytes * spread.remote_peers / n / network.inter_bytes_per_s
        messages = n - 1
        latency = _latency(spread, network)
    return latency + messages * device.message_s + inside + between


def all_reduce_s(num_bytes: float, spread: Spread, network: Network) -> float:
    """Seconds to sum `num_bytes` over a group: reduce-scatter and all-gather, inside hosts first."""
    if spread.size == 1:
        return 0.0
    measured = network.measured("all_reduce", spread, num_bytes)
    if measured is not None:
        return measured
    return _latency(spread, network) + 2 * _one_way_s(num_bytes, spread, network)


def all_gather_s(num_bytes: float, spread: Spread, network: Network) -> float:
    """Seconds until each rank has the `num_bytes` of which it held 1/n; a reduce-scatter takes as long."""
    if spread.size == 1:
        return 0.0
    measured = network.measured("all_gather", spread, num_bytes)
    if measured is not None:
        return measured
    return _latency(spread, network) + _one_way_s(num_bytes, spread, network)


def send_s(num_bytes: float, network: Network, *, same_host: bool, messages: int = 1) -> float:
    """Seconds until a rank has sent `num_bytes` to others, all at once, in so many messages."""
    device = network.device
    further = (messages - 1) * device.message_s
    measured = network.measured("send", _PAIR, num_bytes) if same_host else None
    if measured is not None:
        return measured + further
    if same_host:
        return device.intra_latency_s + further + num_bytes / network.intra_bytes_per_s
    return device.inter_latency_s + further + num_bytes / network.inter_bytes_per_s


def _one_way_s(num_bytes: float, spread: Spread, network: Network) -> float:
    """Half of an all-reduce: (l-1)/l of the bytes inside a host of l members, then (h-1)/h of a 1/l of them
    between h hosts, in log2 steps (Sanders, Speck, Träff 2009, two trees)."""
    local, hosts = spread.local, max(1, ceil(spread.size / spread.local))
    inside = num_bytes * (local - 1) / local / network.intra_bytes_per_s
    between = num_bytes / local * (hosts - 1) / hosts / network.inter_bytes_per_s
    return inside + between + network.device.message_s * (log2(local) + log2(hosts))


def _latency(spread: Spread, network: Network) -> float:
    device = network.device
    return device.inter_latency_s if spread.remote_peers else device.intra_latency_s
