"""Liveness of a run, by the reader's own clock: whether anything of it changes while one looks.

Times of day of other hosts, and the times of files on a shared file system, cannot be compared with this
host's clock. Whether a file is another one than at the last look can be.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from planner.heartbeats import HEARTBEATS_NAME, Heartbeat
from planner.run_holder import find_live_holder, newest_claim
from planner.units import format_seconds

# Heartbeats are written every second; a shared file system shows them some seconds later.
ALIVE_S = 10.0
_GONE = "gone"


class Liveness:
    """What was seen to change, and when."""

    def __init__(self, folder: Path, *, now: Callable[[], float]) -> None:
        self._folder, self._now = folder, now
        self._began = now()
        self._files: dict[Path, tuple[int, int]] = {}
        self._changed_at: float | None = None
        self._progressed_at = now()
        self._places: dict[int, tuple[object, float]] = {}
        self._holds_here = False
        self._are_all_gone = False
        self._looks = 0

    def look(self, heartbeats: Mapping[int, Heartbeat]) -> None:
        now, self._looks = self._now(), self._looks + 1
        files = self._signatures()
        if self._looks > 1 and files != self._files:
            self._changed_at = now
        self._files = files
        # A process of this host is looked up; one of another host shows by its files.
        self._holds_here = find_live_holder(self._folder, wait=lambda seconds: None) is not None
        self._are_all_gone = bool(heartbeats) and all(b.state == _GONE for b in heartbeats.values())
        for rank, beat in heartbeats.items():
            if self._places.get(rank, (None, 0.0))[0] != beat.place:
                self._places[rank] = (beat.place, now)

    def progressed(self) -> None:
        """A step was read."""
        self._progressed_at = self._now()

    @property
    def is_alive(self) -> bool:
        if self._holds_here:
            return True
        if self._are_all_gone or self._changed_at is None:
            return False
        return self._now() - self._changed_at < ALIVE_S

    @property
    def since_progress_s(self) -> float:
        """Since the last step was read, as far as this program has watched."""
        return self._now() - self._progressed_at

    def silent_s(self, rank: int) -> float | None:
        """How long this program has seen a rank begin nothing new; None: it has no heartbeat."""
        place = self._places.get(rank)
        return None if place is None else self._now() - place[1]

    def describe(self) -> str:
        if self._are_all_gone:
            return "the processes of all ranks are gone, and none wrote why"
        since = self._changed_at if self._changed_at is not None else self._began
        return f"nothing has changed in {format_seconds(max(0.0, self._now() - since))} of watching"

    def _signatures(self) -> dict[Path, tuple[int, int]]:
        """The heartbeats are replaced every second, the claim is touched every few."""
        claim = newest_claim(self._folder)
        paths = [*(self._folder / HEARTBEATS_NAME).glob("*.json"), *([claim] if claim else [])]
        found = {}
        for path in paths:
            try:
                stat = path.stat()
                found[path] = (stat.st_ino, stat.st_mtime_ns)
            except OSError:
                continue
        return found
