"""Decides how parts of a tensor are named: boxes, and flat ranges cut into boxes.

A box is a block of a tensor: offsets and a shape, one number a dim. A flat range is a run of elements of a
row-major box; any such run is a few boxes in a row, so that everything else here only meets boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple


class Box(NamedTuple):
    """A block of a tensor. A scalar is the box with no dims and one element."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return prod(self.shape)

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(offset + size for offset, size in zip(self.offsets, self.shape, strict=True))

    def __str__(self) -> str:
        return "[" + ", ".join(f"{a}:{b}" for a, b in zip(self.offsets, self.ends, strict=True)) + "]"


def whole(shape: tuple[int, ...]) -> Box:
    """The box that is all of a tensor of this shape."""
    return Box((0,) * len(shape), shape)


def is_within(inner: Box, outer: Box) -> bool:
    """Whether every element of `inner` lies in `outer`; boxes of another number of dims never do."""
    if not len(inner.offsets) == len(inner.shape) == len(outer.shape):
        return False
    starts_inside = all(a >= b for a, b in zip(inner.offsets, outer.offsets, strict=True))
    return starts_inside and all(a <= b for a, b in zip(inner.ends, outer.ends, strict=True))


def overlap(a: Box, b: Box) -> Box | None:
    """The elements that both boxes hold, or None."""
    starts = tuple(map(max, a.offsets, b.offsets))
    ends = tuple(map(min, a.ends, b.ends))
    if any(end <= start for start, end in zip(starts, ends, strict=True)):
        return None
    return Box(starts, tuple(end - start for start, end in zip(starts, ends, strict=True)))


def subtract(box: Box, taken: Box) -> tuple[Box, ...]:
    """What is left of `box` without the elements of `taken`: at most two disjoint boxes a dim."""
    common = overlap(box, taken)
    if common is None:
        return (box,)
    left: list[Box] = []
    offsets, shape = list(box.offsets), list(box.shape)
    for dim, (start, end) in enumerate(zip(common.offsets, common.ends, strict=True)):
        for low, high in ((offsets[dim], start), (end, offsets[dim] + shape[dim])):
            if low < high:
                left.append(
                    Box(
                        (*offsets[:dim], low, *offsets[dim + 1 :]),
                        (*shape[:dim], high - low, *shape[dim + 1 :]),
                    )
                )
        offsets[dim], shape[dim] = start, end - start
    return tuple(left)


def inside(box: Box, frame: Box) -> tuple[slice, ...]:
    """The slices that take `box` out of a tensor that holds just `frame`."""
    return tuple(
        slice(offset - base, offset - base + size)
        for offset, base, size in zip(box.offsets, frame.offsets, box.shape, strict=True)
    )


def parts(box: Box, flat: tuple[int, int] | None) -> Iterator[Box]:
    """The boxes, in order, that a flat range of `box` is made of (None: `box` itself).

    Each is one contiguous run of the range, so the n-th begins where those before it end.
    """
    if flat is None:
        yield box
        return
    for offsets, shape in _cut(box.shape, *flat):
        yield Box(tuple(a + b for a, b in zip(box.offsets, offsets, strict=True)), shape)


def _cut(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    if start >= stop:
        return
    if not shape:
        yield (), ()
        return
    row = prod(shape[1:])
    first_whole, end_whole = -(-start // row), stop // row

    def within_row(index: int, low: int, high: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        for offsets, sizes in _cut(shape[1:], low, high):
            yield (index, *offsets), (1, *sizes)

    if first_whole > end_whole:  # begins and ends inside the same row
        yield from within_row(end_whole, start - end_whole * row, stop - end_whole * row)
        return
    if start < first_whole * row:
        yield from within_row(first_whole - 1, start - (first_whole - 1) * row, row)
    if first_whole < end_whole:
        yield (first_whole, *(0 for _ in shape[1:])), (end_whole - first_whole, *shape[1:])
    if end_whole * row < stop:
        yield from within_row(end_whole, 0, stop - end_whole * row)
