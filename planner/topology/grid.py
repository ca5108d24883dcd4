"""Rank grid: a block of consecutive ranks arranged along named axes (data, tp, edp, ep). Arithmetic only."""

from dataclasses import dataclass
from itertools import product
from math import prod


@dataclass(frozen=True, kw_only=True)
class Grid:
    """`prod(sizes)` ranks from `first_rank` on; the last axis varies fastest.

    The groups of an axis are the sets of ranks that differ in that axis only. A stage has two grids over the
    same ranks, here for 8 ranks with tp = 2 and ep = 4:

        dense: data 4 × tp 2          expert: edp 2 × ep 4
                 tp 0  tp 1                    ep 0  ep 1  ep 2  ep 3
        data 0      0     1           edp 0       0     1     2     3
        data 1      2     3           edp 1       4     5     6     7
        data 2      4     5
        data 3      6     7

        groups("tp")   = (0, 1), (2, 3), (4, 5), (6, 7)      hold the shards of one dense layer
        groups("data") = (0, 2, 4, 6), (1, 3, 5, 7)          hold replicas of dense weights
        groups("ep")   = (0, 1, 2, 3), (4, 5, 6, 7)          hold the experts of one layer, 1/4 each
        groups("edp")  = (0, 4), (1, 5), (2, 6), (3, 7)      hold replicas of the same experts
    """

    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    first_rank: int

    def __post_init__(self) -> None:
        assert len(self.axes) == len(self.sizes) == len(set(self.axes)), self
        assert all(size >= 1 for size in self.sizes), self
        assert self.first_rank >= 0, self

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(range(self.first_rank, self.last_rank + 1))

    @property
    def last_rank(self) -> int:
        return self.first_rank + prod(self.sizes) - 1

    def size(self, axis: str) -> int:
        return self.sizes[self.axes.index(axis)]

    def coordinate(self, axis: str, rank: int) -> int:
        """The position of a rank along an axis."""
        self._check(rank)
        return (rank - self.first_rank) // self._stride(axis) % self.size(axis)

    def group_of(self, axis: str, rank: int) -> tuple[int, ...]:
        """The group of an axis that contains a rank, in the order of the axis."""
        stride = self._stride(axis)
        first = rank - self.coordinate(axis, rank) * stride
        return tuple(first + i * stride for i in range(self.size(axis)))

    def groups(self, axis: str) -> tuple[tuple[int, ...], ...]:
        """Every group of an axis, in the order of their first ranks; each rank is in exactly one."""
        stride, size = self._stride(axis), self.size(axis)
        outer = range(prod(self.sizes) // (stride * size))
        firsts = (self.first_rank + o * stride * size + i for o, i in product(outer, range(stride)))
        return tuple(tuple(first + i * stride for i in range(size)) for first in firsts)

    def _stride(self, axis: str) -> int:
        return prod(self.sizes[self.axes.index(axis) + 1 :])

    def _check(self, rank: int) -> None:
        if not self.first_rank <= rank <= self.last_rank:
            raise ValueError(f"rank {rank} is not in the grid that begins at rank {self.first_rank}")


def share(size: int, parts: int, place: int) -> int:
    """How many of `size` items one of `parts` ranks holds; shares differ by at most one."""
    each, more = divmod(size, parts)
    return each + (place < more)
