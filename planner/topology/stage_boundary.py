"""Stage boundary: which rank sends which part of a micro-batch to which rank of the next stage.

Rank arithmetic only. Each data-parallel rank of a stage holds one block of the sequences of a micro-step; the
ranks of a TP group hold the same block. Each of them sends its shard of the hidden dim (columns) and receives
the columns of its shard in the next stage: every element is sent once, whatever the degrees, and the TP ranks
share the work. Gradients return the same way.

A stage without layers and with fewer data-parallel ranks than its neighbour processes its block in chunks of
complete sequences, so that the neighbour's ranks need not wait for the entire block.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import lcm

from planner.topology.grid import share
from planner.topology.placement import Stage

# Sends a rank may have outstanding: it waits for the one before the last.
SENDS_IN_FLIGHT = 2
# Receives are posted one pass ahead: for the current pass and the next.
RECEIVES_IN_FLIGHT = 2
# A narrow stage's block is split into at most this many chunks. Each chunk costs a pass of small operations;
# the first is ready after 1/MAX_CHUNKS of the block's time.
MAX_CHUNKS = 4

Interval = tuple[int, int]  # start, stop (exclusive)


@dataclass(frozen=True, kw_only=True, order=True)
class TransferChunk:
    """One P2P message: `rows` are sequences of the micro-step, `columns` elements of the hidden dim.

    `sender` is in the stage before the boundary. Messages between two ranks are sent in this class's order.
    """

    rows: Interval
    columns: Interval
    sender: int
    receiver: int


def list_transfers(
    rank: int, before: Stage, after: Stage, num_sequences: int, hidden_size: int
) -> list[TransferChunk]:
    """The messages that `rank` sends or receives in the forward direction, in order.

    Args:
        rank: in one of the two stages.
        num_sequences: of a micro-step, over all ranks.
    """
    chunk = chunk_sequences(before, after, num_sequences)
    block = num_sequences // min(before.data_parallel_size, after.data_parallel_size)
    found = []
    for sender in _facing(rank, after, before):
        for receiver in _facing(rank, before, after):
            rows = _common(_rows(before, sender, num_sequences), _rows(after, receiver, num_sequences))
            columns = _common(
                find_columns(before, sender, hidden_size), find_columns(after, receiver, hidden_size)
            )
            if columns[0] < columns[1]:
                for part in _cut(rows, chunk, origin=rows[0] // block * block):
                    found.append(TransferChunk(rows=part, columns=columns, sender=sender, receiver=receiver))
    return sorted(found)


def split_into_chunks(stage: Stage, other: Stage, num_sequences: int) -> list[Interval]:
    """The chunks of a rank of `stage` towards its neighbor `other`, as intervals of its own sequences."""
    own = num_sequences // stage.data_parallel_size
    is_cut = not stage.layers and stage.data_parallel_size < other.data_parallel_size
    return list(_cut((0, own), chunk_sequences(stage, other, num_sequences) if is_cut else own, origin=0))


def chunk_sequences(before: Stage, after: Stage, num_sequences: int) -> int:
    """The largest number of sequences in one message."""
    narrow, wide = sorted((before, after), key=lambda stage: stage.data_parallel_size)
    own = num_sequences // narrow.data_parallel_size
    if narrow.layers or narrow.data_parallel_size == wide.data_parallel_size:
        return own
    return -(-own // MAX_CHUNKS)


@dataclass(frozen=True, kw_only=True)
class BoundaryLoad:
    """The largest load of a rank at a boundary per micro-step and direction: elements of one position of a
    sequence, the parts of vectors that they are in, and messages (upper bounds of both where shards or chunks
    are uneven)."""

    num_elements: int
    num_rows: int
    num_messages: int


def find_boundary_load(before: Stage, after: Stage, num_sequences: int, hidden_size: int) -> BoundaryLoad:
    """The load of the busiest rank in `list_transfers`, without listing its messages."""
    narrow, wide = sorted((before, after), key=lambda stage: stage.data_parallel_size)
    own = num_sequences // narrow.data_parallel_size
    faced = wide.data_parallel_size // narrow.data_parallel_size
    chunk, each = chunk_sequences(before, after, num_sequences), own // faced
    chunks = -(-own // chunk)
    # A chunk that ends inside a facing rank's sequences makes two messages of them.
    cuts = faced + chunks - 1 - (own - 1) // lcm(chunk, each)
    is_even = chunk % each == 0 or each % chunk == 0
    cuts_of_faced = max(1, each // chunk) if is_even else each // chunk + 2
    tp, faced_tp = narrow.dense.size("tp"), wide.dense.size("tp")
    return BoundaryLoad(
        num_elements=max(own * share(hidden_size, tp, 0), each * share(hidden_size, faced_tp, 0)),
        num_rows=max(own * -(-faced_tp // tp), each * -(-tp // faced_tp)),
        num_messages=max(cuts * -(-faced_tp // tp), cuts_of_faced * -(-tp // faced_tp)),
    )


def count_buffer_elements(
    stage: Stage, others: Iterable[Stage], num_sequences: int, hidden_size: int, num_micro_batches: int
) -> int:
    """Elements per position of a sequence that a rank of `stage` buffers for stage transfers; upper bound.

    For each of `others`, its neighbors: outstanding receives, twice where messages are narrower than this
    rank's shard, and outstanding sends; once, the full vectors that shards are cut from or gathered to.
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


def find_columns(stage: Stage, rank: int, hidden_size: int) -> Interval:
    """The shard of the hidden dim that `rank` sends or receives; disjoint within a TP group."""
    tp, place = stage.dense.size("tp"), stage.dense.coordinate("tp", rank)
    start = sum(share(hidden_size, tp, other) for other in range(place))
    return start, start + share(hidden_size, tp, place)


def find_first_row(stage: Stage, rank: int, num_sequences: int) -> int:
    """The first of a rank's sequences in the micro-step."""
    return _rows(stage, rank, num_sequences)[0]


def _facing(rank: int, own: Stage, other: Stage) -> Iterator[int]:
    """`rank` itself if it is in `other`; else the ranks of `other` that hold the same sequences."""
    if other.dense.first_rank <= rank <= other.dense.last_rank:
        yield rank
        return
    place = own.dense.coordinate("data", rank)
    mine, theirs, tp = own.data_parallel_size, other.data_parallel_size, other.dense.size("tp")
    first, last = place * theirs // mine, -(-(place + 1) * theirs // mine)
    start = other.dense.first_rank
    yield from range(start + first * tp, start + last * tp)


def _rows(stage: Stage, rank: int, num_sequences: int) -> Interval:
    own = num_sequences // stage.data_parallel_size
    place = stage.dense.coordinate("data", rank)
    return place * own, (place + 1) * own


def _common(a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), min(a[1], b[1])


def _cut(rows: Interval, chunk: int, origin: int) -> Iterator[Interval]:
    """Split at every `chunk` sequences from `origin`, the start of a block of the narrow stage."""
    start = rows[0]
    while start < rows[1]:
        stop = min(rows[1], start + chunk - (start - origin) % chunk)
        yield start, stop
        start = stop
