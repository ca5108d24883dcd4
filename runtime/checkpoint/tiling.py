"""Tiling of a tensor by slices: whether they cover it exactly once, in the time of a few sorts.

Comparing every slice with every other would take a manifest of 100,000 pieces hours. Slices of ranks are
cut through: by the grid of TP and EP, and inside of it by ranges of rows. So the tensor can be divided by
planes that cross no slice, down to single slices. What cannot be divided so overlaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from runtime.checkpoint.tensor_slices import TensorSlice

T = TypeVar("T")
_Parts = Sequence[tuple[TensorSlice, T]]


def find_hole(frame: TensorSlice, parts: _Parts[T]) -> tuple[TensorSlice | None, tuple[T, ...]] | None:
    """None if the parts, which are within the frame, tile it.

    Otherwise a hole, or None and what belongs to parts that overlap (or are cut as no run cuts them).
    """
    # Grid and ranges of rows divide each dim at most twice, and planes through both once more.
    max_depth = 4 * len(frame.shape) + 4
    left = [(frame, parts, 0)]
    while left:
        frame, parts, depth = left.pop()
        if not parts:
            return frame, ()
        if len(parts) == 1 and parts[0][0] == frame:
            continue
        divided = None
        for dim in range(len(frame.shape)):
            groups = list(_divide(dim, parts))
            if (hole := _hole_between(dim, frame, groups)) is not None:
                return hole, ()
            if len(groups) > 1:
                divided = [(_cut(frame, dim, start, end), group, depth + 1) for start, end, group in groups]
                break
        if divided is None or depth == max_depth:
            return None, tuple(owner for _, owner in parts)
        left += divided
    return None


def _divide(dim: int, parts: _Parts[T]) -> Iterator[tuple[int, int, _Parts[T]]]:
    """Start, end and parts of each range of a dim that no part leaves."""
    group: list[tuple[TensorSlice, T]] = []
    start = end = 0
    for part in sorted(parts, key=lambda part: part[0].offsets[dim]):
        offset = part[0].offsets[dim]
        if group and offset >= end:
            yield start, end, group
            group = []
        if not group:
            start = end = offset
        end = max(end, offset + part[0].shape[dim])
        group.append(part)
    yield start, end, group


def _hole_between(
    dim: int, frame: TensorSlice, groups: Sequence[tuple[int, int, _Parts[T]]]
) -> TensorSlice | None:
    ends = (frame.offsets[dim], *(end for _, end, _ in groups))
    starts = (*(start for start, _, _ in groups), frame.ends[dim])
    for end, start in zip(ends, starts, strict=True):
        if end < start:
            return _cut(frame, dim, end, start)
    return None


def _cut(frame: TensorSlice, dim: int, start: int, end: int) -> TensorSlice:
    offsets, shape = list(frame.offsets), list(frame.shape)
    offsets[dim], shape[dim] = start, end - start
    return TensorSlice(tuple(offsets), tuple(shape))
