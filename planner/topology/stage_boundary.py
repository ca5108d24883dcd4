"""Which rank hands which part of a micro-batch to which, where two stages meet: rank arithmetic only.

A stage holds the sequences of a micro-step in blocks, one a data-parallel rank; TP partners hold the same
ones. Each partner sends the columns of the hidden dim that are its share, and gets the columns that are its
share in the next stage: every element crosses once, whatever the widths, and partners share the sending.
Gradients go back the same way.

A stage without layers that is narrower than its neighbour works through its block in chunks of whole
sequences, so that a neighbour's ranks need not wait for all of it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import lcm

from planner.topology.grid import share
from planner.topology.placement import Stage

# A rank sends a micro-batch only once the one so many before it has arrived: two are on their way at most.
SENDS_IN_FLIGHT = 2
# What a rank receives is asked for one pass ahead: that of the present one and of the next.
RECEIVES_IN_FLIGHT = 2
# A narrow stage's block is cut into at most so many: each costs its ranks a pass of small operations, and
# the first is ready after this part of the block's time.
MAX_CHUNKS = 4

Span = tuple[int, int]  # from, up to


@dataclass(frozen=True, kw_only=True, order=True)
class Piece:
    """What crosses at once: `rows` are sequences of the micro-step, `columns` elements of the hidden dim.

    `sender` is in the stage before the boundary. Pieces between two ranks cross in this class's order.
    """

    rows: Span
    columns: Span
    sender: int
    receiver: int


def pieces_of(rank: int, before: Stage, after: Stage, num_sequences: int, hidden_size: int) -> list[Piece]:
    """The pieces that `rank`, of one of the two stages, sends forward or receives from there, in order.

    Args:
        num_sequences: of a micro-step, in all.
    """
    chunk = chunk_sequences(before, after, num_sequences)
    block = num_sequences // min(before.data_parallel_size, after.data_parallel_size)
    found = []
    for sender in _facing(rank, after, before):
        for receiver in _facing(rank, before, after):
            rows = _common(_rows(before, sender, num_sequences), _rows(after, receiver, num_sequences))
            columns = _common(
                columns_of(before, sender, hidden_size), columns_of(after, receiver, hidden_size)
            )
            if columns[0] < columns[1]:
                for part in _cut(rows, chunk, origin=rows[0] // block * block):
                    found.append(Piece(rows=part, columns=columns, sender=sender, receiver=receiver))
    return sorted(found)


def chunks_of(stage: Stage, other: Stage, num_sequences: int) -> list[Span]:
    """How a rank of `stage` cuts its own sequences (counted from 0) towards `other`, its neighbour."""
    own = num_sequences // stage.data_parallel_size
    is_cut = not stage.layers and stage.data_parallel_size < other.data_parallel_size
    return list(_cut((0, own), chunk_sequences(stage, other, num_sequences) if is_cut else own, origin=0))


def chunk_sequences(before: Stage, after: Stage, num_sequences: int) -> int:
    """Sequences that cross a boundary together at most."""
    narrow, wide = sorted((before, after), key=lambda stage: stage.data_parallel_size)
    own = num_sequences // narrow.data_parallel_size
    if narrow.layers or narrow.data_parallel_size == wide.data_parallel_size:
        return own
    return -(-own // MAX_CHUNKS)


@dataclass(frozen=True, kw_only=True)
class Load:
    """The most that a rank at a boundary has of a micro-step, one way: elements of one position of a
    sequence, and messages; these are a bound from above where shares or chunks are uneven."""

    num_elements: int
    num_messages: int


def load_of(before: Stage, after: Stage, num_sequences: int, hidden_size: int) -> Load:
    """What `pieces_of` gives the rank that has most of it, without listing the pieces."""
    narrow, wide = sorted((before, after), key=lambda stage: stage.data_parallel_size)
    own = num_sequences // narrow.data_parallel_size
    faced = wide.data_parallel_size // narrow.data_parallel_size
    chunk, each = chunk_sequences(before, after, num_sequences), own // faced
    chunks = -(-own // chunk)
    # A chunk that ends inside of a faced rank's sequences makes two messages of them.
    cuts = faced + chunks - 1 - (own - 1) // lcm(chunk, each)
    is_even = chunk % each == 0 or each % chunk == 0
    cuts_of_faced = max(1, each // chunk) if is_even else each // chunk + 2
    tp, faced_tp = narrow.dense.size("tp"), wide.dense.size("tp")
    return Load(
        num_elements=max(own * share(hidden_size, tp, 0), each * share(hidden_size, faced_tp, 0)),
        num_messages=max(cuts * -(-faced_tp // tp), cuts_of_faced * -(-tp // faced_tp)),
    )


def buffer_elements(
    stage: Stage, others: Iterable[Stage], num_sequences: int, hidden_size: int, num_micro_batches: int
) -> int:
    """The most elements of one position of a sequence that a rank of `stage` holds for hand-overs at once.

    With each of `others`, its neighbours: what is on its way here, twice where it comes in pieces narrower
    than this rank's share; what has left and may not have arrived; once, the whole vectors that shares are
    cut from or gathered to. A bound from above.
    """
    others, tp = tuple(others), stage.dense.size("tp")
    if not others:
        return 0
    own = num_sequences // stage.data_parallel_size
    part = own * share(hidden_size, tp, 0)
    on_the_way = 0
    for other in others:
        their_tp = other.dense.size("tp")
        fits = their_tp in (1, tp) or (tp % their_tp == 0 and hidden_size % tp == 0)
        receives = min(RECEIVES_IN_FLIGHT, num_micro_batches) * (1 if fits else 2)
        on_the_way += part * (receives + min(SENDS_IN_FLIGHT, num_micro_batches))
    whole = own * hidden_size
    return on_the_way + (whole if tp == 1 else part + 2 * whole)


def columns_of(stage: Stage, rank: int, hidden_size: int) -> Span:
    """The share of the hidden dim that crosses at `rank`; TP partners hold disjoint ones."""
    tp, place = stage.dense.size("tp"), stage.dense.coordinate("tp", rank)
    start = sum(share(hidden_size, tp, other) for other in range(place))
    return start, start + share(hidden_size, tp, place)


def first_row(stage: Stage, rank: int, num_sequences: int) -> int:
    """Where a rank's sequences begin in the micro-step."""
    return _rows(stage, rank, num_sequences)[0]


def _facing(rank: int, own: Stage, other: Stage) -> Iterator[int]:
    """`rank` itself where it is of `other`; otherwise the ranks of `other` that hold sequences of its own."""
    if other.dense.first_rank <= rank <= other.dense.last_rank:
        yield rank
        return
    place = own.dense.coordinate("data", rank)
    mine, theirs, tp = own.data_parallel_size, other.data_parallel_size, other.dense.size("tp")
    first, last = place * theirs // mine, -(-(place + 1) * theirs // mine)
    start = other.dense.first_rank
    yield from range(start + first * tp, start + last * tp)


def _rows(stage: Stage, rank: int, num_sequences: int) -> Span:
    own = num_sequences // stage.data_parallel_size
    place = stage.dense.coordinate("data", rank)
    return place * own, (place + 1) * own


def _common(a: Span, b: Span) -> Span:
    return max(a[0], b[0]), min(a[1], b[1])


def _cut(rows: Span, chunk: int, origin: int) -> Iterator[Span]:
    """Cut every `chunk` sequences from `origin` on, which is where a block of the narrow stage begins."""
    start = rows[0]
    while start < rows[1]:
        stop = min(rows[1], start + chunk - (start - origin) % chunk)
        yield start, stop
        start = stop
