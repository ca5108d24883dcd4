"""Clock of a run: its wall time, goodput, and where the clock of a host was set while it trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from launch.run_folder.description import Claim
from launch.run_folder.records import StepRecord

# Of two readings a step apart; a clock that NTP corrects changes by less.
JUMP_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Jump:
    """A clock that was set. seconds: forward if positive."""

    step: int
    seconds: float

    def __str__(self) -> str:
        way = "forward" if self.seconds > 0 else "back"
        return (
            f"the clock of rank 0's host jumped {way} by {abs(self.seconds):,.0f} s before step {self.step}; "
            "times of day on the two sides cannot be compared, seconds of steps are not affected"
        )


@dataclass
class RunClock:
    """Follows the steps in the order in which they were written.

    Goodput is the time of the steps that count over the time since the first attempt began: what is lost are
    starts, saves, validation, steps that were repeated, and the time between attempts.
    """

    jumps: list[Jump] = field(default_factory=list)
    _step_s: dict[int, float] = field(default_factory=dict)
    _ends: dict[int, tuple[float, float]] = field(default_factory=dict)  # of attempts: begin, elapsed
    _last: StepRecord | None = None

    def observe(self, record: StepRecord) -> None:
        self._step_s[record.step] = record.step_s
        last, self._last = self._last, record
        if record.time is None or record.elapsed_s is None:
            return
        if last is None or last.attempt != record.attempt or last.time is None or last.elapsed_s is None:
            self._ends[record.attempt] = (record.time - record.elapsed_s, record.elapsed_s)
            return
        begin, _ = self._ends[record.attempt]
        self._ends[record.attempt] = (begin, record.elapsed_s)
        jump_s = (record.time - last.time) - (record.elapsed_s - last.elapsed_s)
        if abs(jump_s) > JUMP_S:
            self.jumps.append(Jump(step=record.step, seconds=jump_s))

    @property
    def trained_s(self) -> float:
        return sum(self._step_s.values())

    def wall_s(self, claims: Sequence[Claim] = (), *, since_s: float = 0.0) -> float | None:
        """Seconds from the start of the first attempt to the last line; None where no line has its time.

        Args:
            claims: of the attempts: their starts count too.
            since_s: what has passed since the last line.
        """
        if not self._ends:
            return None
        started = {claim.attempt: claim.started for claim in claims}
        total, end = since_s, None
        for attempt, (begin, elapsed) in sorted(self._ends.items()):
            begun = started.get(attempt)
            since = begun if end is None else end  # the time before this attempt's first step is lost too
            total += elapsed + (max(0.0, begin - since) if since is not None else 0.0)
            end = begin + elapsed
        return total

    def goodput(self, claims: Sequence[Claim] = (), *, since_s: float = 0.0) -> float | None:
        """0 to 1."""
        wall_s = self.wall_s(claims, since_s=since_s)
        return None if not wall_s else min(1.0, self.trained_s / wall_s)
