"""Slices and flat ranges against plain index arithmetic."""

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.checkpoint.tensor_slices import (
    TensorSlice,
    full_slice,
    index_within,
    intersect,
    is_within,
    split_flat_range,
    subtract,
)

Shape = tuple[int, ...]
shapes = st.lists(st.integers(1, 4), min_size=0, max_size=4).map(tuple)


@st.composite
def slices(draw: st.DrawFn, shape: Shape) -> TensorSlice:
    offsets = tuple(draw(st.integers(0, size - 1)) for size in shape)
    sizes = tuple(draw(st.integers(1, size - offset)) for size, offset in zip(shape, offsets, strict=True))
    return TensorSlice(offsets, sizes)


@st.composite
def two_slices(draw: st.DrawFn) -> tuple[Shape, TensorSlice, TensorSlice]:
    shape = draw(shapes)
    return shape, draw(slices(shape)), draw(slices(shape))


@st.composite
def ranges(draw: st.DrawFn) -> tuple[Shape, TensorSlice, tuple[int, int]]:
    shape = draw(shapes)
    part = draw(slices(shape))
    start = draw(st.integers(0, part.num_elements))
    return shape, part, (start, draw(st.integers(start, part.num_elements)))


def elements(shape: Shape, part: TensorSlice) -> list[int]:
    numbers = np.arange(prod(shape)).reshape(shape)
    return numbers[index_within(part, full_slice(shape))].reshape(-1).tolist()


@given(two_slices())
@settings(deadline=None)
def test_intersect_and_subtract_partition_the_elements(case: tuple[Shape, TensorSlice, TensorSlice]) -> None:
    shape, a, b = case
    common = intersect(a, b)
    held = elements(shape, common) if common is not None else []
    rest = [index for part in subtract(a, b) for index in elements(shape, part)]
    assert set(held) == set(elements(shape, a)) & set(elements(shape, b))
    assert sorted(held + rest) == elements(shape, a)


@given(ranges())
@settings(deadline=None)
def test_slices_of_a_flat_range_are_its_elements_in_order(
    case: tuple[Shape, TensorSlice, tuple[int, int]],
) -> None:
    shape, outer, (start, stop) = case
    found = [index for part in split_flat_range(outer, (start, stop)) for index in elements(shape, part)]
    assert found == elements(shape, outer)[start:stop]


def test_a_range_inside_a_matrix_is_three_slices() -> None:
    cut = list(split_flat_range(TensorSlice((10, 0), (4, 5)), (3, 17)))
    assert cut == [TensorSlice((10, 3), (1, 2)), TensorSlice((11, 0), (2, 5)), TensorSlice((13, 0), (1, 2))]


def test_is_within_needs_equal_dims_and_no_end_beyond() -> None:
    assert is_within(TensorSlice((1,), (3,)), full_slice((4,)))
    assert not is_within(TensorSlice((2,), (3,)), full_slice((4,)))
    assert not is_within(TensorSlice((0, 0), (1, 1)), full_slice((4,)))
