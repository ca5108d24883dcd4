"""A block of consecutive ranks seen as a grid of named axes: rank arithmetic only."""

from dataclasses import dataclass
from itertools import product
from math import prod


@dataclass(frozen=True, kw_only=True)
class Grid:
    """`prod(sizes)` ranks from `first_rank` on, numbered with the last axis running fastest.

    The groups of an axis are the sets of ranks that differ in that axis only.
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
        """Where a rank stands along an axis."""
        self._check(rank)
        return (rank - self.first_rank) // self._stride(axis) % self.size(axis)

    def group_of(self, axis: str, rank: int) -> tuple[int, ...]:
        """The group of an axis that a rank belongs to, in the order of the axis."""
        stride = self._stride(axis)
        first = rank - self.coordinate(axis, rank) * stride
        return tuple(first + i * stride for i in range(self.size(axis)))

    def groups(self, axis: str) -> tuple[tuple[int, ...], ...]:
        """Every group of an axis, in the order of their first ranks; together they hold each rank once."""
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
    """How many of `size` things one of `parts` ranks holds; shares differ by at most one."""
    each, more = divmod(size, parts)
    return each + (place < more)
