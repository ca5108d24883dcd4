"""Decides what a step's time is spent on: a closed list of phases, disjoint, whose sum is the step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType

from planner.phases import COMMUNICATION, PHASES, USEFUL

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

    Time is the host's. On a GPU kernels run behind the host, so without `synchronize` a phase counts what the
    host did or waited for in it; with it (torch.cuda.synchronize) the device is awaited at each boundary,
    which is exact and slower. Backward runs phases on autograd's own thread while the caller waits for it:
    one clock serves both, because only one of them moves at a time.
    """

    def __init__(
        self,
        *,
        synchronize: Callable[[], None] | None = None,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._synchronize = synchronize
        self._now_ns = now_ns
        self._spans = {name: _Span(self, name) for name in PHASES}
        self._open = ["other"]
        self._spent_ns = dict.fromkeys(PHASES, 0)
        self._mark_ns = now_ns()
        self._recording: list[Span] | None = None

    def phase(self, name: str) -> _Span:
        """A context in which time counts to `name`, one of PHASES."""
        return self._spans[name]

    def reset(self) -> dict[str, float]:
        """Seconds of each phase since the last reset (or the clock's making); the step's time is their sum.

        Call it outside of all phases, also before the first step and after work that belongs to no step.
        """
        assert len(self._open) == 1, f"reset inside of {self._open[1:]}"
        self._move_on()
        phases_s = {name: spent * 1e-9 for name, spent in self._spent_ns.items()}
        self._spent_ns = dict.fromkeys(PHASES, 0)
        return phases_s

    def record(self) -> None:
        """From here on keeps each stretch of time by itself, until `recorded`."""
        self._move_on()
        self._recording = []

    def recorded(self) -> tuple[Span, ...]:
        """The stretches since `record`, in order, and no more of them."""
        self._move_on()
        assert self._recording is not None, "nothing was recorded"
        spans, self._recording = tuple(self._recording), None
        return spans

    def _move_on(self) -> None:
        if self._synchronize is not None:
            self._synchronize()
        now_ns = self._now_ns()
        if self._recording is not None and now_ns > self._mark_ns:
            self._recording.append(Span(name=self._open[-1], start_ns=self._mark_ns, end_ns=now_ns))
        self._spent_ns[self._open[-1]] += now_ns - self._mark_ns
        self._mark_ns = now_ns


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
