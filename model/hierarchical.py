"""Two-level all-to-all (runtime.all_to_all: hierarchical): inside the host first, then from host to host.

Each row travels inside its host to the member that has the destination's place on its host, and from there to
the destination, together with the rows that the host's other members have for it. Between hosts a rank
exchanges messages with one rank of each, not with every rank. Rows arrive in the order of the flat exchange.

Members of a group are in the order of their hosts, as many on each: rank h · L + l is member l of host h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

# H hosts, L members of the group on each, R rows on this rank, S rows that it passes on


@dataclass(frozen=True, kw_only=True)
class HostGroups:
    """The two exchanges of a rank: with the group's members on its host, in their order, and with those that
    have its place on the other hosts, in the order of hosts."""

    inside: dist.ProcessGroup
    between: dist.ProcessGroup
    num_hosts: int
    num_local: int


@dataclass(frozen=True, kw_only=True)
class Route:
    """Rows of one exchange: from this rank to each of the group, from each of it to this rank, and those that
    this rank passes on, from each member of its host to each host."""

    send_HL: tuple[int, ...]
    receive_HL: tuple[int, ...]
    passed_LH: tuple[tuple[int, ...], ...]


def find_route(
    send: Sequence[int], receive: Sequence[int], groups: HostGroups, device: torch.device
) -> Route:
    """Tells the members of the host what they pass on. Collective inside the host; waits for the device.

    `send`, `receive`: rows for each rank of the group, and from it.
    """
    num_hosts, num_local = groups.num_hosts, groups.num_local
    mine = torch.tensor(send, dtype=torch.int64, device=device).view(num_hosts, num_local).t().contiguous()
    passed = torch.empty_like(mine)
    dist.all_to_all_single(passed, mine, group=groups.inside)
    return Route(send_HL=tuple(send), receive_HL=tuple(receive), passed_LH=tuple(map(tuple, passed.tolist())))


def exchange(x_R: Tensor, route: Route, groups: HostGroups) -> Tensor:
    """Rows to their destinations; those of the first rank of the group come first."""
    num_hosts, num_local = groups.num_hosts, groups.num_local
    send, passed = route.send_HL, route.passed_LH
    outer, inner = range(num_hosts), range(num_local)
    x_R = _reorder(x_R, send, [h * num_local + m for m in inner for h in outer])
    to_members = [sum(send[h * num_local + m] for h in outer) for m in inner]
    x_S = _all_to_all(x_R, to_members, [sum(row) for row in passed], groups.inside)
    x_S = _reorder(x_S, _flat(passed), [m * num_hosts + h for h in outer for m in inner])
    to_hosts = [sum(row[h] for row in passed) for h in outer]
    from_hosts = [sum(route.receive_HL[h * num_local : (h + 1) * num_local]) for h in outer]
    return _all_to_all(x_S, to_hosts, from_hosts, groups.between)


def exchange_back(x_R: Tensor, route: Route, groups: HostGroups) -> Tensor:
    """The way back of `exchange`: rows in the order in which it delivered them, to where they came from."""
    num_hosts, num_local = groups.num_hosts, groups.num_local
    send, passed = route.send_HL, route.passed_LH
    outer, inner = range(num_hosts), range(num_local)
    to_hosts = [sum(route.receive_HL[h * num_local : (h + 1) * num_local]) for h in outer]
    x_S = _all_to_all(x_R, to_hosts, [sum(row[h] for row in passed) for h in outer], groups.between)
    by_host = [passed[m][h] for h in outer for m in inner]
    x_S = _reorder(x_S, by_host, [h * num_local + m for m in inner for h in outer])
    from_members = [sum(send[h * num_local + m] for h in outer) for m in inner]
    x_R = _all_to_all(x_S, [sum(row) for row in passed], from_members, groups.inside)
    by_member = [send[h * num_local + m] for m in inner for h in outer]
    return _reorder(x_R, by_member, [m * num_hosts + h for h in outer for m in inner])


def _reorder(x_R: Tensor, lengths: Sequence[int], order: Sequence[int]) -> Tensor:
    """Consecutive parts of so many rows, in another order."""
    parts = x_R.split(list(lengths))
    return torch.cat([parts[i] for i in order])


def _all_to_all(x_R: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup) -> Tensor:
    received = x_R.new_empty(sum(receive), *x_R.shape[1:])
    dist.all_to_all_single(received, x_R.contiguous(), receive, send, group=group)
    return received


def _flat(rows: Sequence[Sequence[int]]) -> list[int]:
    return [each for row in rows for each in row]
