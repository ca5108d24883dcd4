"""Rank arithmetic: groups of an axis partition the ranks, whatever the sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Grid

GRID = Grid(axes=("edp", "ep"), sizes=(2, 3), first_rank=10)  # 10 11 12 / 13 14 15


def test_groups_of_the_last_axis_are_consecutive() -> None:
    assert GRID.groups("ep") == ((10, 11, 12), (13, 14, 15))


def test_groups_of_the_first_axis_are_strided() -> None:
    assert GRID.groups("edp") == ((10, 13), (11, 14), (12, 15))


def test_group_of_and_coordinate_follow_the_rank() -> None:
    assert GRID.group_of("edp", 14) == (11, 14)
    assert (GRID.coordinate("edp", 14), GRID.coordinate("ep", 14)) == (1, 1)


def test_rank_outside_is_an_error() -> None:
    with pytest.raises(ValueError, match="rank 16"):
        GRID.coordinate("ep", 16)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 50))
def test_groups_of_every_axis_partition_the_ranks(sizes: list[int], first: int) -> None:
    axes = tuple("abcd"[: len(sizes)])
    grid = Grid(axes=axes, sizes=tuple(sizes), first_rank=first)
    for axis in axes:
        groups = grid.groups(axis)
        assert sorted(rank for group in groups for rank in group) == list(grid.ranks)
        for group in groups:
            assert len(group) == grid.size(axis)
            assert all(grid.group_of(axis, rank) == group for rank in group)
            assert [grid.coordinate(axis, rank) for rank in group] == list(range(len(group)))
