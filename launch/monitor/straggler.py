"""Straggler: the rank whose own work takes longer than that of its stage's other ranks, window after window.

In synchronous training every rank's step takes equally long: who is slow works, and the others wait. So
what is compared is a rank's own time, without its waits. One slow window is an accident.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from launch.run_folder.records import RankRecord

WINDOW = 10  # steps
NUM_WINDOWS = 3
# Ranks of one stage differ by a few percent from step to step; the load of their experts adds to it.
SLOW_RATIO = 1.15


@dataclass(frozen=True, kw_only=True)
class Slowest:
    """The slowest rank of the last window. ratio: its own time over the median of its stage's others.

    is_straggler: it was the slowest of its stage, by more than SLOW_RATIO, in each of the last windows.
    """

    rank: int
    ratio: float
    own_s: float
    is_straggler: bool


def find_slowest(
    steps: Mapping[int, Mapping[int, RankRecord]], stages: Sequence[Sequence[int]]
) -> Slowest | None:
    """
    Args:
        steps: records by step, then rank.
        stages: the ranks of each stage; those of a stage of one rank have nobody to be compared with.
    """
    windows = list(_windows(steps))
    if not windows:
        return None
    slowest = [_slowest_of(windows[-1], ranks) for ranks in stages]
    found = max(filter(None, slowest), key=lambda one: one.ratio, default=None)
    if found is None:
        return None
    ranks = next(ranks for ranks in stages if found.rank in ranks)
    past = [_slowest_of(window, ranks) for window in windows]
    is_straggler = len(windows) == NUM_WINDOWS and all(
        one is not None and one.rank == found.rank and one.ratio >= SLOW_RATIO for one in past
    )
    return Slowest(rank=found.rank, ratio=found.ratio, own_s=found.own_s, is_straggler=is_straggler)


def _windows(
    steps: Mapping[int, Mapping[int, RankRecord]],
) -> Iterator[tuple[Mapping[int, RankRecord], ...]]:
    """The last complete windows, oldest first."""
    numbers = sorted(steps)[-NUM_WINDOWS * WINDOW :]
    for first in range(len(numbers) % WINDOW, len(numbers), WINDOW):
        yield tuple(steps[step] for step in numbers[first : first + WINDOW])


def _slowest_of(window: Sequence[Mapping[int, RankRecord]], ranks: Sequence[int]) -> Slowest | None:
    own: dict[int, float] = {}
    for rank in ranks:
        found = [step[rank].own_s for step in window if rank in step]
        if found:
            own[rank] = median(found)
    if len(own) < 2:
        return None
    rank = max(own, key=lambda rank: own[rank])
    others = median(seconds for other, seconds in own.items() if other != rank)
    if others <= 0:
        return None
    return Slowest(rank=rank, ratio=own[rank] / others, own_s=own[rank], is_straggler=False)
