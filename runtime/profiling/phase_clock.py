"""Phase clock: the time of a step, split into a closed list of disjoint phases whose sum is the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from planner.prediction.breakdown import COMMUNICATION, PHASES, USEFUL
from runtime.profiling.timestamps import HostTimestamps, Timestamps


@dataclass(frozen=True, kw_only=True)
class TimeSpan:
    """A named interval, from `start_ns` to `end_ns` of this host's perf_counter_ns."""

    name: str
    start_ns: int
    end_ns: int


class PhaseClock:
    """Measures the phases of a step on this rank.

        with clock.phase("compute"):
            ...                            # compute
            with clock.phase("all_to_all"):
                ...                        # all_to_all, and not compute
        phases_s = clock.reset()           # what no phase claimed is "other"

    Every moment since the last reset counts to exactly one phase, the innermost that is open. Entering and
    leaving cost about a microsecond together.

    Time is that of `timestamps`: the host's, or on a GPU (StreamTimestamps) the stream's, which a reset
    waits for. Backward runs phases on autograd's own thread while the caller waits for it: one clock
    serves both, because only one of them moves at a time.
    """

    def __init__(
        self, timestamps: Timestamps | None = None, on_change: Callable[[], object] | None = None
    ) -> None:
        """
        Args:
            on_change: called whenever a phase begins or ends.
        """
        self._timestamps = timestamps or HostTimestamps()
        self._on_change = on_change
        self._phases = {name: _Phase(self, name) for name in PHASES}
        self._open = ["other"]
        # Which phase was open until when, since the last reset; the first entry is the reset itself.
        self._until: list[tuple[str, Any]] = [("other", self._timestamps.take())]
        self._recording: list[TimeSpan] | None = None

    def phase(self, name: str) -> _Phase:
        """A context in which time counts to `name`, one of PHASES."""
        return self._phases[name]

    @property
    def current(self) -> str:
        """The innermost phase that is open now, for any thread."""
        return self._open[-1]

    def reset(self) -> dict[str, float]:
        """Seconds of each phase since the last reset (or the constructor); the step's time is their sum.

        Call it outside of all phases, also before the first step and after work that belongs to no step.
        """
        assert len(self._open) == 1, f"reset inside of {self._open[1:]}"
        spent_ns = dict.fromkeys(PHASES, 0)
        for span in self._take_spans():
            spent_ns[span.name] += span.end_ns - span.start_ns
        return {name: spent * 1e-9 for name, spent in spent_ns.items()}

    def record(self) -> None:
        """Resets; from here on keeps each interval by itself, until `recorded`."""
        self.reset()
        self._recording = []

    def recorded(self) -> tuple[TimeSpan, ...]:
        """The intervals since `record`, in order. Resets, and stops recording."""
        self.reset()
        assert self._recording is not None, "nothing was recorded"
        spans, self._recording = tuple(self._recording), None
        return spans

    def _take_spans(self) -> list[TimeSpan]:
        """The intervals since the last call."""
        self._move_on()
        names, taken = zip(*self._until, strict=True)
        times_ns = self._timestamps.times_ns(taken)
        self._until = [("other", self._timestamps.take())]
        spans = [
            TimeSpan(name=name, start_ns=start, end_ns=end)
            for name, start, end in zip(names[1:], times_ns, times_ns[1:], strict=False)
            if end > start
        ]
        if self._recording is not None:
            self._recording += spans
        return spans

    def _move_on(self) -> None:
        if self._on_change is not None:
            self._on_change()
        self._until.append((self._open[-1], self._timestamps.take()))


class _Phase:
    """One phase of one clock; made once, entered often, also inside itself."""

    __slots__ = ("_clock", "_name")

    def __init__(self, clock: PhaseClock, name: str) -> None:
        self._clock = clock
        self._name = name

    def __enter__(self) -> None:
        self._clock._move_on()
        self._clock._open.append(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock._move_on()
        self._clock._open.pop()


def step_s(phases_s: Mapping[str, float]) -> float:
    """Seconds of the step."""
    return sum(phases_s.values())


def communication_share(phases_s: Mapping[str, float]) -> float:
    """The share of the step, 0 to 1, spent waiting for other ranks, not hidden by compute."""
    return _share(phases_s, COMMUNICATION)


def utilization(phases_s: Mapping[str, float]) -> float:
    """The share of the step, 0 to 1, spent on compute and the optimizer."""
    return _share(phases_s, USEFUL)


def _share(phases_s: Mapping[str, float], names: tuple[str, ...]) -> float:
    total = step_s(phases_s)
    return sum(phases_s[name] for name in names) / total if total > 0 else 0.0
