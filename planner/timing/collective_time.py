"""Seconds of a collective (α-β model): from its bytes and how its group is placed on hosts and links.

Two levels: peers of the same host are reached over one link, all others over another. What goes to the two is
counted one after the other: exact where a host's network card serves both, an upper bound otherwise.
Nothing is taken off for congestion between groups, because a strategy's links are each GPU's own.
"""

from dataclasses import dataclass
from math import ceil, log2

from planner.hardware.catalog import Device
from planner.plan.plan import Plan
from planner.topology.grid import Grid
from planner.topology.group_placement import PAIR, GroupPlacement, grid_placement, placement_of
from planner.topology.placement import Stage


@dataclass(frozen=True, kw_only=True)
class Network:
    """The links of a rank, one way; a full host has `host_size` ranks.

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

    def placement(self, stage: Stage, axis: str) -> GroupPlacement:
        """How the groups of an axis of a stage are placed over hosts: the worst of them."""
        return placement_of(stage, axis, self.host_size)

    def measured(self, kind: str, placement: GroupPlacement, num_bytes: float) -> float | None:
        """Seconds of a collective that was measured on such a host, if one was.

        Of several, the one nearest in how many ranks the host has at work, then in the group's size; its
        time is scaled by the sizes of the groups.
        """
        if placement.remote_peers or not self.device.collectives:
            return None
        known = [m for m in self.device.collectives if m.kind == kind]
        if not known:
            return None
        nearest = min(
            known, key=lambda m: (abs(m.ranks_on_host - self.ranks_at_work), abs(m.group - placement.size))
        )
        return nearest.seconds(num_bytes) * placement.size / nearest.group


def network_of(plan: Plan, device: Device) -> Network:
    """The network between the ranks of a plan; a host is as full as its first, which is the fullest.

    Measured links replace those of the strategy.
    """
    links = plan.strategy.cluster.links
    return Network(
        intra_bytes_per_s=device.intra_bytes_per_s or links.intra_host * device.link_share,
        inter_bytes_per_s=device.inter_bytes_per_s
        or links.inter_host_rate(plan.host_size) * device.link_share,
        host_size=plan.host_size,
        device=device,
    )


def slowdown(device: Device, network: Network) -> float:
    """How much longer a rank computes because of the others on its host: fewer cores than ranks at work, and
    what was measured of caches and memory that they share."""
    shared = max(1.0, network.ranks_at_work / device.cores) if device.cores else 1.0
    measured = device.contention_of(network.ranks_at_work)
    return shared * (1.0 if measured is None else measured.compute)


# A core's work before each collective of benchmarks/collectives.py, whose times include the wait after it.
MEASURED_WORK_S = 2e-3


def further_wait_s(work_s: float, network: Network) -> float:
    """What ranks of a host wait for each other before a collective, beyond what its measured time includes.

    work_s: a core's time since the collective before. Below 0 after little work; 0 if nothing was measured.
    """
    measured = network.device.contention_of(network.ranks_at_work) if network.device.collectives else None
    return 0.0 if measured is None else measured.wait_s(work_s) - measured.wait_s(MEASURED_WORK_S)


def world_placement(plan: Plan, network: Network) -> GroupPlacement:
    """All ranks as one group."""
    grid = Grid(axes=("world",), sizes=(plan.world_size,), first_rank=0)
    return grid_placement(grid, "world", network.host_size)


def all_to_all_bytes(num_bytes: float, placement: GroupPlacement) -> float:
    """What leaves a rank that holds `num_bytes` for its group, its own part left out."""
    return num_bytes * (placement.size - 1) / placement.size


def all_to_all_s(
    num_bytes: float, placement: GroupPlacement, network: Network, *, hierarchical: bool = False
) -> float:
    """Seconds for one all-to-all in which each rank holds `num_bytes` for the whole group, its own included.

    t = latency + messages · message + bytes to the own host / intra + bytes to others / inter.
    Source: Thakur et al. 2005, section 4. `hierarchical`: all bytes go twice, inside the host and then
    between hosts, in messages that are as many times larger as a host has members.
    """
    if placement.size == 1:
        return 0.0
    measured = network.measured("all_to_all", placement, num_bytes)
    if measured is not None:
        return measured
    device, n = network.device, placement.size
    if hierarchical and placement.remote_peers and placement.local > 1:
        inside = num_bytes * placement.local_peers / placement.local / network.intra_bytes_per_s
        between = num_bytes * placement.remote_peers / n / network.inter_bytes_per_s
        messages = placement.local_peers + placement.hosts - 1
        latency = device.intra_latency_s + device.inter_latency_s
    else:
        inside = num_bytes * placement.local_peers / n / network.intra_bytes_per_s
        between = num_bytes * placement.remote_peers / n / network.inter_bytes_per_s
        messages = n - 1
        latency = _latency(placement, network)
    return latency + messages * device.message_s + inside + between


def all_reduce_s(num_bytes: float, placement: GroupPlacement, network: Network) -> float:
    """Seconds to sum `num_bytes` over a group: reduce-scatter and all-gather, inside hosts first."""
    if placement.size == 1:
        return 0.0
    measured = network.measured("all_reduce", placement, num_bytes)
    if measured is not None:
        return measured
    return _latency(placement, network) + 2 * _one_way_s(num_bytes, placement, network)


def all_gather_s(num_bytes: float, placement: GroupPlacement, network: Network) -> float:
    """Seconds until each rank has the `num_bytes` of which it held 1/n; a reduce-scatter takes as long."""
    if placement.size == 1:
        return 0.0
    measured = network.measured("all_gather", placement, num_bytes)
    if measured is not None:
        return measured
    return _latency(placement, network) + _one_way_s(num_bytes, placement, network)


def send_s(num_bytes: float, network: Network, *, same_host: bool, messages: int = 1) -> float:
    """Seconds until a rank has sent `num_bytes` to others, all at once, in so many messages."""
    device = network.device
    further = (messages - 1) * device.message_s
    measured = network.measured("send", PAIR, num_bytes) if same_host else None
    if measured is not None:
        return measured + further
    if same_host:
        return device.intra_latency_s + further + num_bytes / network.intra_bytes_per_s
    return device.inter_latency_s + further + num_bytes / network.inter_bytes_per_s


def _one_way_s(num_bytes: float, placement: GroupPlacement, network: Network) -> float:
    """Half of an all-reduce: (l-1)/l of the bytes inside a host of l members, then (h-1)/h of a 1/l of them
    between h hosts, in log2 steps (Sanders, Speck, Träff 2009, two trees)."""
    local, hosts = placement.local, max(1, ceil(placement.size / placement.local))
    inside = num_bytes * (local - 1) / local / network.intra_bytes_per_s
    between = num_bytes / local * (hosts - 1) / hosts / network.inter_bytes_per_s
    return inside + between + network.device.message_s * (log2(local) + log2(hosts))


def _latency(placement: GroupPlacement, network: Network) -> float:
    device = network.device
    return device.inter_latency_s if placement.remote_peers else device.intra_latency_s
