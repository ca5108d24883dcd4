"""What crosses a boundary: every element once, evenly shared, for stages of any widths."""

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from planner import Stage
from planner.topology.grid import Grid
from planner.topology.placement import StageContents
from planner.topology.stage_boundary import (
    MAX_CHUNKS,
    BoundaryLoad,
    TransferChunk,
    find_boundary_load,
    list_transfers,
    split_into_chunks,
)


def stage(first_rank: int, data: int, tp: int, layers: tuple[int, ...] = (0,)) -> Stage:
    return Stage(
        name="some",
        contents=StageContents(layers=layers),
        dense=Grid(axes=("data", "tp"), sizes=(data, tp), first_rank=first_rank),
        expert=None,
    )


def of_all(senders: Stage, receivers: Stage, sequences: int, hidden: int) -> list[TransferChunk]:
    return [p for rank in senders.ranks for p in list_transfers(rank, senders, receivers, sequences, hidden)]


widths = some.sampled_from([1, 2, 3, 4, 6, 8])
partners = some.sampled_from([1, 2, 3, 4])


@settings(max_examples=300, deadline=None)
@given(widths, partners, widths, partners, some.integers(1, 3), some.integers(4, 9), some.booleans())
def test_every_element_crosses_once_to_each_place_that_needs_it(
    data: int, tp: int, next_data: int, next_tp: int, each: int, hidden: int, cut: bool
) -> None:
    """Element by element: the bytes moved are the least, a copy for each block of the next stage's."""
    sequences = data * next_data * each
    before = stage(0, data, tp, () if cut else (0,))
    after = stage(data * tp, next_data, next_tp)
    crossed: Counter[tuple[int, int]] = Counter()
    for piece in of_all(before, after, sequences, hidden):
        for row in range(*piece.rows):
            for column in range(*piece.columns):
                crossed[row, column] += 1
                # The receiver holds this row, and this column is its share (written out once more here).
                place, partner = divmod(piece.receiver - after.dense.first_rank, next_tp)
                assert row * next_data // sequences == place
                longer, rest = divmod(hidden, next_tp)
                ends = [longer * (i + 1) + min(i + 1, rest) for i in range(next_tp)]
                assert sum(column >= end for end in ends) == partner
    assert crossed == Counter({(r, c): 1 for r in range(sequences) for c in range(hidden)})


@settings(max_examples=200, deadline=None)
@given(widths, partners, widths, partners, some.integers(1, 5), some.booleans(), some.booleans())
def test_both_ends_of_a_boundary_name_the_same_pieces(
    data: int, tp: int, next_data: int, next_tp: int, each: int, cut: bool, next_cut: bool
) -> None:
    sequences = data * next_data * each
    before = stage(0, data, tp, () if cut else (0,))
    after = stage(data * tp, next_data, next_tp, () if next_cut else (0,))
    sent = of_all(before, after, sequences, 8)
    received = [p for rank in after.ranks for p in list_transfers(rank, before, after, sequences, 8)]
    assert sorted(sent) == sorted(received)
    most = Counter((piece.sender, piece.receiver) for piece in sent).most_common(1)[0][1]
    assert most <= MAX_CHUNKS


@settings(max_examples=200, deadline=None)
@given(
    some.sampled_from([1, 2, 3]),
    some.sampled_from([1, 2, 4]),
    some.sampled_from([1, 2, 3, 5, 8]),
    some.sampled_from([1, 2, 4]),
    some.integers(1, 6),
    some.sampled_from([10, 12]),
    some.booleans(),
    some.booleans(),
)
@example(data=1, tp=1, ratio=5, wide_tp=4, each=2, hidden=12, cut=True, turned=False)
def test_the_fullest_rank_has_what_its_pieces_add_up_to(
    data: int, tp: int, ratio: int, wide_tp: int, each: int, hidden: int, cut: bool, turned: bool
) -> None:
    """As in every plan, one width divides the other, and one tp the other."""
    sequences = data * ratio * each
    narrow, wide = stage(0, data, tp, () if cut else (0,)), stage(data * tp, data * ratio, wide_tp)
    before, after = (wide, narrow) if turned else (narrow, wide)
    elements: Counter[int] = Counter()
    rows: Counter[int] = Counter()
    messages: Counter[int] = Counter()
    for piece in of_all(before, after, sequences, hidden):
        for rank in (piece.sender, piece.receiver):
            elements[rank] += (piece.rows[1] - piece.rows[0]) * (piece.columns[1] - piece.columns[0])
            rows[rank] += piece.rows[1] - piece.rows[0]
            messages[rank] += 1
    load = find_boundary_load(before, after, sequences, hidden)
    assert load.num_elements == max(elements.values())
    if hidden % tp == hidden % wide_tp == 0:  # otherwise some shares overlap two others
        assert load.num_rows == max(rows.values())
        most = max(messages.values())
        assert most <= load.num_messages <= most + max(1, tp // wide_tp) * 2
        assert load.num_messages == most or cut


def test_the_reference_by_hand() -> None:
    """64 sequences of a micro-step: each embedding rank sends half of each vector to all 64 experts' ranks,
    in four chunks of 16 sequences; each of those sends a half to both aggregation ranks."""
    embedding, experts, aggregation = stage(0, 1, 2, ()), stage(2, 64, 1), stage(66, 1, 2, ())
    pieces = list_transfers(1, embedding, experts, 64, 1024)
    assert [(p.receiver, p.rows, p.columns) for p in pieces] == [
        (2 + i, (i, i + 1), (512, 1024)) for i in range(64)
    ]
    assert split_into_chunks(embedding, experts, 64) == [(0, 16), (16, 32), (32, 48), (48, 64)]
    assert split_into_chunks(experts, embedding, 64) == [(0, 1)]
    assert find_boundary_load(embedding, experts, 64, 1024) == BoundaryLoad(
        num_elements=64 * 512, num_rows=64, num_messages=64
    )
    pieces = list_transfers(65, experts, aggregation, 64, 1024)
    assert [(p.receiver, p.rows, p.columns) for p in pieces] == [
        (66, (63, 64), (0, 512)),
        (67, (63, 64), (512, 1024)),
    ]


@pytest.mark.parametrize("cut", [True, False])
def test_stages_of_one_width_transfer_complete_micro_batches(cut: bool) -> None:
    before, after = stage(0, 4, 2, () if cut else (0,)), stage(8, 4, 2)
    assert split_into_chunks(before, after, 12) == split_into_chunks(after, before, 12) == [(0, 3)]
    assert [(p.receiver, p.rows, p.columns) for p in list_transfers(3, before, after, 12, 10)] == [
        (11, (3, 6), (5, 10))
    ]


def test_chunks_begin_where_a_block_begins() -> None:
    """Two narrow ranks of 10 sequences each, in chunks of 3: the second one's chunks start at its own 10."""
    narrow, wide = stage(0, 2, 1, ()), stage(2, 4, 1)
    assert split_into_chunks(narrow, wide, 20) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert [p.rows for p in list_transfers(1, narrow, wide, 20, 4)] == [
        (10, 13),
        (13, 15),
        (15, 16),
        (16, 19),
        (19, 20),
    ]
