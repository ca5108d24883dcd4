"""Moments of a rank, on its host or on its GPU: taken as work is issued, read as times afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Stamps(Protocol):
    """Takes moments; later says when they were, in nanoseconds of this host's perf_counter_ns."""

    def take(self) -> Any: ...

    def times_ns(self, taken: Sequence[Any]) -> list[int]:
        """When each of them was, in the order in which they were taken."""
        ...


class HostStamps:
    """What the host does at once is over when it is over: the host's clock."""

    def __init__(self, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._now_ns = now_ns

    def take(self) -> int:
        return self._now_ns()

    def times_ns(self, taken: Sequence[int]) -> list[int]:
        return list(taken)


class StreamStamps:
    """A GPU computes behind the host, so a moment is an event on the stream: it comes when the work issued
    before it is done, and whatever the stream waits for lies between two of them.

    Taking one does not wait. `times_ns` waits for the last, and places them all by its time on the host.
    """

    def __init__(self, device: torch.device) -> None:
        from torch import cuda  # whoever only reads telemetry does without torch

        self._cuda, self._device = cuda, device
        self._spare: list[torch.cuda.Event] = []

    def take(self) -> torch.cuda.Event:
        event = self._spare.pop() if self._spare else self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._device))
        return event

    def times_ns(self, taken: Sequence[torch.cuda.Event]) -> list[int]:
        if not taken:
            return []
        taken[-1].synchronize()
        at_ns = time.perf_counter_ns()
        times = [at_ns]
        # Backwards and one by one: an elapsed time is a float32 of milliseconds, exact only while short.
        for earlier, later in zip(taken[-2::-1], taken[:0:-1], strict=True):
            at_ns -= round(earlier.elapsed_time(later) * 1e6)
            times.append(at_ns)
        self._spare.extend(taken)
        return times[::-1]


def stamps_of(device: torch.device) -> Stamps:
    """Those of the device that a rank computes on."""
    return StreamStamps(device) if device.type == "cuda" else HostStamps()
