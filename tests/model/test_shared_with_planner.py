"""Definitions that model/ and the planner both have, because neither imports the other, are equal."""

from dataclasses import fields

import pytest

from model.collectives import Group, share_of
from model.decoder import StageContents
from planner.topology import placement
from planner.topology.grid import share


def test_stage_contents_have_the_same_fields_and_defaults() -> None:
    ours, theirs = (
        {field.name: field.default for field in fields(contents)}
        for contents in (StageContents, placement.StageContents)
    )
    assert ours == theirs


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 64])
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_shares_have_the_same_lengths(size: int, parts: int) -> None:
    for rank in range(parts):
        group = Group(process_group=None, ranks=tuple(range(parts)), rank=rank, size=parts)
        assert share_of(size, group)[1] == share(size, parts, rank)
