"""Slices of a tensor, their intersection and difference, and flat ranges cut into slices.

A slice is an n-dimensional block of a tensor: one offset and one size per dim. A flat range is a run of
elements of a row-major slice; it splits into a few slices, so that the rest only handles slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple


class TensorSlice(NamedTuple):
    """A block of a tensor. A scalar is a slice with no dims and one element."""

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
    """The slice that covers a tensor of this shape."""
    return TensorSlice((0,) * len(shape), shape)


def is_within(inner: TensorSlice, outer: TensorSlice) -> bool:
    """Whether every element of `inner` is in `outer`; never if they differ in the number of dims."""
    if not len(inner.offsets) == len(inner.shape) == len(outer.shape):
        return False
    starts_inside = all(a >= b for a, b in zip(inner.offsets, outer.offsets, strict=True))
    return starts_inside and all(a <= b for a, b in zip(inner.ends, outer.ends, strict=True))


def intersect(a: TensorSlice, b: TensorSlice) -> TensorSlice | None:
    """The elements in both slices, or None."""
    starts = tuple(map(max, a.offsets, b.offsets))
    ends = tuple(map(min, a.ends, b.ends))
    if any(end <= start for start, end in zip(starts, ends, strict=True)):
        return None
    return TensorSlice(starts, tuple(end - start for start, end in zip(starts, ends, strict=True)))


def subtract(tensor_slice: TensorSlice, taken: TensorSlice) -> tuple[TensorSlice, ...]:
    """`tensor_slice` without the elements of `taken`: at most two disjoint slices per dim."""
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
    """The index of `tensor_slice` in a tensor that holds exactly `frame`."""
    return tuple(
        slice(offset - base, offset - base + size)
        for offset, base, size in zip(tensor_slice.offsets, frame.offsets, tensor_slice.shape, strict=True)
    )


def split_flat_range(tensor_slice: TensorSlice, flat: tuple[int, int] | None) -> Iterator[TensorSlice]:
    """The slices, in order, that make up a flat range of `tensor_slice` (None: `tensor_slice` itself).

    Each is a contiguous run of the range, so the n-th begins where those before it end.
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
    first_full, end_full = -(-start // row), stop // row

    def within_row(index: int, low: int, high: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        for offsets, sizes in _cut(shape[1:], low, high):
            yield (index, *offsets), (1, *sizes)

    if first_full > end_full:  # begins and ends inside the same row
        yield from within_row(end_full, start - end_full * row, stop - end_full * row)
        return
    if start < first_full * row:
        yield from within_row(first_full - 1, start - (first_full - 1) * row, row)
    if first_full < end_full:
        yield (first_full, *(0 for _ in shape[1:])), (end_full - first_full, *shape[1:])
    if end_full * row < stop:
        yield from within_row(end_full, 0, stop - end_full * row)
