"""Hang detection: which ranks have stood still for longer than their phase can take."""

from collections.abc import Mapping
from dataclasses import dataclass

from planner.heartbeats import Heartbeat

# A phase may take so many times the longest of its kind so far, but at least operate.hang_timeout.
SLACK = 5.0


@dataclass(frozen=True, kw_only=True)
class Stall:
    """Ranks that stand still. seconds: the longest of them. limit_s: what it was allowed."""

    ranks: tuple[int, ...]
    phase: str
    step: int
    seconds: float
    limit_s: float


@dataclass
class _Seen:
    place: object
    since: float
    phase: tuple[str, int]
    phase_since: float


class HangWatch:
    """Compares each look at the heartbeats of one attempt with the last.

    Only this program's clock counts, and only changes: clocks of hosts may differ.

    Args:
        hang_timeout_s: operate.hang_timeout.
        first_timeout_s: what the first of each phase may take: launch.timeout.
    """

    def __init__(self, *, hang_timeout_s: float, first_timeout_s: float) -> None:
        self._hang_timeout_s, self._first_timeout_s = hang_timeout_s, first_timeout_s
        self._seen: dict[int, _Seen] = {}
        self._longest_s: dict[str, float] = {}

    def observe(self, ranks: Mapping[int, Heartbeat], now: float) -> Stall | None:
        """
        Args:
            ranks: of this attempt.
            now: seconds of a monotonic clock.
        """
        for rank, beat in ranks.items():
            phase = (beat.phase, beat.step)
            seen = self._seen.get(rank)
            if seen is None:
                self._seen[rank] = _Seen(beat.place, now, phase, now)
                continue
            if phase != seen.phase:
                name = seen.phase[0]
                self._longest_s[name] = max(self._longest_s.get(name, 0.0), now - seen.phase_since)
                seen.phase, seen.phase_since = phase, now
            if beat.place != seen.place:
                seen.place, seen.since = beat.place, now
        # A rank that has ended has no heartbeat any more.
        still = {rank: now - self._seen[rank].since for rank in ranks}
        stalled = [rank for rank, seconds in still.items() if seconds > self.limit_s(ranks[rank].phase)]
        if not stalled:
            return None
        slowest = max(stalled, key=lambda rank: still[rank])
        beat = ranks[slowest]
        return Stall(
            ranks=tuple(sorted(stalled)),
            phase=beat.phase,
            step=beat.step,
            seconds=still[slowest],
            limit_s=self.limit_s(beat.phase),
        )

    @property
    def last_progress(self) -> float | None:
        """When a rank was last seen to have got further; None before any was seen."""
        return max((seen.since for seen in self._seen.values()), default=None)

    def limit_s(self, phase: str) -> float:
        """How long a rank may stand still in a phase."""
        longest = self._longest_s.get(phase)
        if longest is None:
            return max(self._first_timeout_s, self._hang_timeout_s)
        return max(self._hang_timeout_s, SLACK * longest)


def find_failed_ranks(ranks: Mapping[int, Heartbeat]) -> tuple[int, ...]:
    """Of ranks that stand still, those that the others wait for; empty where nothing tells them apart.

    A rank whose process is gone or stopped; else one that is in no collective while others are; else one
    that is in an earlier collective of a group than another rank of that group.
    """
    for states in (("gone",), ("stopped", "tracing-stop", "dead")):
        if found := tuple(sorted(rank for rank, beat in ranks.items() if beat.state in states)):
            return found
    waiting = {rank: beat.waits_in for rank, beat in ranks.items() if beat.waits_in is not None}
    if waiting and len(waiting) < len(ranks):
        return tuple(sorted(set(ranks) - set(waiting)))
    furthest: dict[str, int] = {}
    for wait in waiting.values():
        furthest[wait.group] = max(furthest.get(wait.group, 0), wait.number)
    return tuple(sorted(rank for rank, wait in waiting.items() if wait.number < furthest[wait.group]))
