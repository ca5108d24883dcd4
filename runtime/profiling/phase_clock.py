"""Decides what a step's time is spent on: a closed list of phases, disjoint, whose sum is the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from planner.prediction.breakdown import COMMUNICATION, PHASES, USEFUL
from runtime.profiling.timestamps import HostStamps, Stamps

__all__ = ["COMMUNICATION", "PHASES", "USEFUL", "PhaseClock", "communication_share", "step_s", "utilization"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """Something with a name, from `start_ns` to `end_ns` of this host's perf_counter_ns."""

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

    Time is that of `stamps`: the host's, or on a GPU (timestamps.StreamStamps) the stream's, which a
    reset waits for. Backward runs phases on autograd's own thread while the caller waits for it: one clock
    serves both, because only one of them moves at a time.
    """

    def __init__(self, stamps: Stamps | None = None) -> None:
        self._stamps = stamps or HostStamps()
        self._spans = {name: _Span(self, name) for name in PHASES}
        self._open = ["other"]
        # What was going on until when, since the last reset; the first entry is the reset itself.
        self._until: list[tuple[str, Any]] = [("other", self._stamps.take())]
        self._recording: list[Span] | None = None

    def phase(self, name: str) -> _Span:
        """A context in which time counts to `name`, one of PHASES."""
        return self._spans[name]

    def reset(self) -> dict[str, float]:
        """Seconds of each phase since the last reset (or the clock's making); the step's time is their sum.

        Call it outside of all phases, also before the first step and after work that belongs to no step.
        """
        assert len(self._open) == 1, f"reset inside of {self._open[1:]}"
        spent_ns = dict.fromkeys(PHASES, 0)
        for span in self._take_spans():
            spent_ns[span.name] += span.end_ns - span.start_ns
        return {name: spent * 1e-9 for name, spent in spent_ns.items()}

    def record(self) -> None:
        """From here on keeps each stretch of time by itself, until `recorded`. Begins anew, as a reset."""
        self.reset()
        self._recording = []

    def recorded(self) -> tuple[Span, ...]:
        """The stretches since `record`, in order, and no more of them. Begins anew, as a reset."""
        self.reset()
        assert self._recording is not None, "nothing was recorded"
        spans, self._recording = tuple(self._recording), None
        return spans

    def _take_spans(self) -> list[Span]:
        """The stretches of time since the last call."""
        self._move_on()
        names, stamps = zip(*self._until, strict=True)
        times_ns = self._stamps.times_ns(stamps)
        self._until = [("other", self._stamps.take())]
        spans = [
            Span(name=name, start_ns=start, end_ns=end)
            for name, start, end in zip(names[1:], times_ns, times_ns[1:], strict=False)
            if end > start
        ]
        if self._recording is not None:
            self._recording += spans
        return spans

    def _move_on(self) -> None:
        self._until.append((self._open[-1], self._stamps.take()))


class _Span:
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
    """Seconds of the whole step."""
    return sum(phases_s.values())


def communication_share(phases_s: Mapping[str, float]) -> float:
    """The part of the step, 0 to 1, spent on waits for other ranks that compute did not hide."""
    return _share(phases_s, COMMUNICATION)


def utilization(phases_s: Mapping[str, float]) -> float:
    """The part of the step, 0 to 1, spent on compute and the optimizer."""
    return _share(phases_s, USEFUL)


def _share(phases_s: Mapping[str, float], names: tuple[str, ...]) -> float:
    whole = step_s(phases_s)
    return sum(phases_s[name] for name in names) / whole if whole > 0 else 0.0
