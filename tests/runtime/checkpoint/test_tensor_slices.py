"""Boxes and flat ranges, held against plain index arithmetic."""

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.checkpoint.tensor_slices import Box, inside, is_within, overlap, parts, subtract, whole

shapes = st.lists(st.integers(1, 4), min_size=0, max_size=4).map(tuple)


@st.composite
def boxes(draw, shape):
    offsets = tuple(draw(st.integers(0, size - 1)) for size in shape)
    sizes = tuple(draw(st.integers(1, size - offset)) for size, offset in zip(shape, offsets, strict=True))
    return Box(offsets, sizes)


@st.composite
def two_boxes(draw):
    shape = draw(shapes)
    return shape, draw(boxes(shape)), draw(boxes(shape))


@st.composite
def ranges(draw):
    shape = draw(shapes)
    box = draw(boxes(shape))
    start = draw(st.integers(0, box.num_elements))
    return shape, box, (start, draw(st.integers(start, box.num_elements)))


def elements(shape, box) -> list[int]:
    numbers = np.arange(prod(shape)).reshape(shape)
    return numbers[inside(box, whole(shape))].reshape(-1).tolist()


@given(two_boxes())
@settings(deadline=None)
def test_overlap_and_subtract_part_the_elements(case):
    shape, a, b = case
    common = overlap(a, b)
    held = elements(shape, common) if common is not None else []
    rest = [index for box in subtract(a, b) for index in elements(shape, box)]
    assert set(held) == set(elements(shape, a)) & set(elements(shape, b))
    assert sorted(held + rest) == elements(shape, a)


@given(ranges())
@settings(deadline=None)
def test_parts_of_a_range_are_its_elements_in_order(case):
    shape, box, (start, stop) = case
    found = [index for part in parts(box, (start, stop)) for index in elements(shape, part)]
    assert found == elements(shape, box)[start:stop]


def test_a_range_inside_a_matrix_is_three_boxes():
    cut = list(parts(Box((10, 0), (4, 5)), (3, 17)))
    assert cut == [Box((10, 3), (1, 2)), Box((11, 0), (2, 5)), Box((13, 0), (1, 2))]


def test_is_within_refuses_other_dims_and_ends_beyond():
    assert is_within(Box((1,), (3,)), whole((4,)))
    assert not is_within(Box((2,), (3,)), whole((4,)))
    assert not is_within(Box((0, 0), (1, 1)), whole((4,)))
