"""Placement of process groups over hosts: how many members of a group share a host, at worst."""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from planner.topology.grid import Grid
from planner.topology.placement import Stage


@dataclass(frozen=True, kw_only=True)
class GroupPlacement:
    """`size` ranks on `hosts` hosts; at worst `local` of them on one member's host."""

    size: int
    local: int
    hosts: int

    @property
    def local_peers(self) -> int:
        return self.local - 1

    @property
    def remote_peers(self) -> int:
        return self.size - self.local


ALONE = GroupPlacement(size=1, local=1, hosts=1)
PAIR = GroupPlacement(size=2, local=2, hosts=1)


def placement_of(stage: Stage, axis: str, host_size: int) -> GroupPlacement:
    """The worst-placed group of an axis of a stage; a stage without experts has no EP group."""
    grid = stage.expert if axis in ("ep", "edp") else stage.dense
    return ALONE if grid is None else grid_placement(grid, axis, host_size)


def grid_placement(grid: Grid, axis: str, host_size: int) -> GroupPlacement:
    """The worst-placed group of an axis on hosts of `host_size` ranks."""
    index = grid.axes.index(axis)
    stride, size = prod(grid.sizes[index + 1 :]), grid.sizes[index]
    return _placement(grid.first_rank % host_size, stride, size, prod(grid.sizes), host_size)


@lru_cache(maxsize=65536)
def _placement(offset: int, stride: int, size: int, num_ranks: int, host_size: int) -> GroupPlacement:
    if size == 1:
        return ALONE
    block = stride * size
    worst: tuple[int, int] | None = None
    seen: set[int] = set()
    for first in range(offset, offset + num_ranks, block):
        # Groups that begin at the same place of a host are placed alike; so are neighbours within a block.
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
    return GroupPlacement(size=size, local=-worst[0], hosts=worst[1])
