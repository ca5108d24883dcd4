"""Two-level all-to-all (runtime.all_to_all: hierarchical): inside the host first, then from host to host.

Each row travels inside its host to the member that has the destination's place on its host, and from there to
the destination, together with the rows that the host's other members have for it. Between hosts a rank
exchanges messages with one rank of each, not with every rank. Rows arrive in the order of the flat exchange.

Members of a group are in the order of their hosts, as many on each: rank h · L + l is member l of host h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_Part = TypeVar("_Part")

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
    """Rows of one exchange: from this rank to each of the group, and those that it passes on, from each
    member of its host to each host; then how many it exchanges with each member of its host, and each host.
    """

    send_HL: tuple[int, ...]
    passed_LH: tuple[int, ...]
    to_members: tuple[int, ...]
    from_members: tuple[int, ...]
    to_hosts: tuple[int, ...]
    from_hosts: tuple[int, ...]


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
    passed_LH = passed.tolist()
    hosts = [slice(h * num_local, (h + 1) * num_local) for h in range(num_hosts)]
    return Route(
        send_HL=tuple(send),
        passed_LH=tuple(rows for member in passed_LH for rows in member),
        to_members=tuple(sum(send[m::num_local]) for m in range(num_local)),
        from_members=tuple(map(sum, passed_LH)),
        to_hosts=tuple(map(sum, zip(*passed_LH, strict=True))),
        from_hosts=tuple(sum(receive[host]) for host in hosts),
    )


def exchange(x_R: Tensor, route: Route, groups: HostGroups) -> Tensor:
    """Rows to their destinations; those of the first rank of the group come first."""
    x_R = _reorder(x_R, route.send_HL, groups.num_hosts)
    x_S = _all_to_all(x_R, route.to_members, route.from_members, groups.inside)
    x_S = _reorder(x_S, route.passed_LH, groups.num_local)
    return _all_to_all(x_S, route.to_hosts, route.from_hosts, groups.between)


def exchange_back(x_R: Tensor, route: Route, groups: HostGroups) -> Tensor:
    """The way back of `exchange`: rows in the order in which it delivered them, to where they came from."""
    passed_HL = _transposed(route.passed_LH, groups.num_local)
    send_LH = _transposed(route.send_HL, groups.num_hosts)
    x_S = _all_to_all(x_R, route.from_hosts, route.to_hosts, groups.between)
    x_S = _reorder(x_S, passed_HL, groups.num_hosts)
    x_R = _all_to_all(x_S, route.from_members, route.to_members, groups.inside)
    return _reorder(x_R, send_LH, groups.num_local)


def _reorder(x_R: Tensor, lengths: Sequence[int], outer: int) -> Tensor:
    """Consecutive parts of so many rows, in the order of `_transposed`."""
    return torch.cat(_transposed(x_R.split(list(lengths)), outer))


def _transposed(parts: Sequence[_Part], outer: int) -> list[_Part]:
    """A table of `outer` lines of as many parts, listed column by column instead of line by line."""
    inner = len(parts) // outer
    return [part for column in range(inner) for part in parts[column::inner]]


def _all_to_all(x_R: Tensor, send: Sequence[int], receive: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    received = x_R.new_empty(sum(receive), *x_R.shape[1:])
    dist.all_to_all_single(received, x_R.contiguous(), list(receive), list(send), group=group)
    return received
