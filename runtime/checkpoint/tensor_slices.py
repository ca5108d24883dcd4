"""Decides how parts of a tensor are named: slices, and flat ranges cut into slices.

A slice is a block of a tensor: offsets and a shape, one number a dim. A flat range is a run of elements of a
row-major slice; any such run is a few slices in a row, so that everything else here only meets slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple


class TensorSlice(NamedTuple):
    """A block of a tensor. A scalar is the slice with no dims and one element."""

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


def full_slice(shape: tuple[int, ...]) -> TensorSlice:
    """The slice that is all of a tensor of this shape."""
    return TensorSlice((0,) * len(shape), shape)


def is_within(inner: TensorSlice, outer: TensorSlice) -> bool:
    """Whether every element of `inner` lies in `outer`; slices of another number of dims never do."""
    if not len(inner.offsets) == len(inner.shape) == len(outer.shape):
        return False
    starts_inside = all(a >= b for a, b in zip(inner.offsets, outer.offsets, strict=True))
    return starts_inside and all(a <= b for a, b in zip(inner.ends, outer.ends, strict=True))


def intersect(a: TensorSlice, b: TensorSlice) -> TensorSlice | None:
    """The elements that both slices hold, or None."""
    starts = tuple(map(max, a.offsets, b.offsets))
    ends = tuple(map(min, a.ends, b.ends))
    if any(end <= start for start, end in zip(starts, ends, strict=True)):
        return None
    return TensorSlice(starts, tuple(end - start for start, end in zip(starts, ends, strict=True)))


def subtract(tensor_slice: TensorSlice, taken: TensorSlice) -> tuple[TensorSlice, ...]:
    """What is left of `tensor_slice` without the elements of `taken`: at most two disjoint slices a dim."""
    common = intersect(tensor_slice, taken)
    if common is None:
        return (tensor_slice,)
    left: list[TensorSlice] = []
    offsets, shape = list(tensor_slice.offsets), list(tensor_slice.shape)
    for dim, (start, end) in enumerate(zip(common.offsets, common.ends, strict=True)):
        for low, high in ((offsets[dim], start), (end, offsets[dim] + shape[dim])):
            if low < high:
                left.append(
                    TensorSlice(
                        (*offsets[:dim], low, *offsets[dim + 1 :]),
                        (*shape[:dim], high - low, *shape[dim + 1 :]),
                    )
                )
        offsets[dim], shape[dim] = start, end - start
    return tuple(left)


def index_within(tensor_slice: TensorSlice, frame: TensorSlice) -> tuple[slice, ...]:
    """The slices that take `tensor_slice` out of a tensor that holds just `frame`."""
    return tuple(
        slice(offset - base, offset - base + size)
        for offset, base, size in zip(tensor_slice.offsets, frame.offsets, tensor_slice.shape, strict=True)
    )


def split_flat_range(tensor_slice: TensorSlice, flat: tuple[int, int] | None) -> Iterator[TensorSlice]:
    """The slices, in order, that a flat range of `tensor_slice` is made of (None: `tensor_slice` itself).

    Each is one contiguous run of the range, so the n-th begins where those before it end.
    """
    if flat is None:
        yield tensor_slice
        return
    for offsets, shape in _cut(tensor_slice.shape, *flat):
        yield TensorSlice(tuple(a + b for a, b in zip(tensor_slice.offsets, offsets, strict=True)), shape)


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
