"""Timestamps of a rank, on its host or on its GPU stream: taken as work is issued, read afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Timestamps(Protocol):
    """Takes timestamps; later converts them to nanoseconds of this host's perf_counter_ns."""

    def take(self) -> Any: ...

    def times_ns(self, taken: Sequence[Any]) -> list[int]:
        """The time of each, in the order in which they were taken."""
        ...


class HostTimestamps:
    """The host's clock: on a CPU, work is done when its call returns."""

    def __init__(self, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._now_ns = now_ns

    def take(self) -> int:
        return self._now_ns()

    def times_ns(self, taken: Sequence[int]) -> list[int]:
        return list(taken)


class StreamTimestamps:
    """CUDA events: a GPU works asynchronously, so a timestamp is an event on the stream, which completes with
    the work issued before it. Whatever the stream waits for is between two of them.

    Taking one does not wait. `times_ns` waits for the last, and dates all others back from its host time.
    """

    def __init__(self, device: torch.device) -> None:
        from torch import cuda  # reading telemetry needs no torch

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
        # Backwards, one by one: an elapsed time is a float32 of milliseconds, exact only while short.
        for earlier, later in zip(taken[-2::-1], taken[:0:-1], strict=True):
            at_ns -= round(earlier.elapsed_time(later) * 1e6)
            times.append(at_ns)
        self._spare.extend(taken)
        return times[::-1]


def make_timestamps(device: torch.device) -> Timestamps:
    """The timestamps of the device that a rank computes on."""
    return StreamTimestamps(device) if device.type == "cuda" else HostTimestamps()
