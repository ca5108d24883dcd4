"""Watch over one attempt: its heartbeats and its launcher, until it has ended or has to be ended."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.supervisor.attempt import Attempt
from launch.supervisor.hang_watch import HangWatch, Stall, find_failed_ranks
from launch.supervisor.verdict import Cause, Verdict, judge, read_outcome
from planner import Plan
from planner.exit_codes import ExitCode
from planner.heartbeats import PHASES, Heartbeat, read_heartbeats

LOOK_S = 0.5
# A rank whose process is gone has so long to have left a reason: it may be at its end.
REASON_WAIT_S = 3.0
# Once rank 0 has told that the run is done, launch.sh has so long to end, and the other ranks with it.
END_WAIT_S = 90.0
# Once it has told of a failure. launch.sh would give ranks that do not end 30 s, and a lost host longer.
FAILED_WAIT_S = 10.0
_RESTORE, _STEP = PHASES.index("restore"), PHASES.index("step")


@dataclass(kw_only=True)
class AttemptWatch:
    """
    Args:
        before: the number of the newest attempt before this one.
        should_stop: whether the ranks are to save and end.
        on_look: called with the heartbeats of this attempt's ranks at each look at them.
    """

    plan: Plan
    run: Path
    before: int
    should_stop: Callable[[], bool]
    on_look: Callable[[Mapping[int, Heartbeat]], object]
    # The highest step that a rank was seen in, and whether one was seen at more than its start.
    step: int = field(default=0, init=False)
    has_met: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._hangs = HangWatch(
            hang_timeout_s=self.plan.strategy.operate.hang_timeout,
            first_timeout_s=self.plan.strategy.launch.timeout,
        )

    @property
    def last_progress(self) -> float | None:
        """When a rank was last seen to have got further, in seconds of the monotonic clock."""
        return self._hangs.last_progress

    def watch(self, attempt: Attempt) -> Verdict:
        """Until the attempt has ended, a rank is gone, or hangs."""
        has_asked, told_at = False, None
        while (code := attempt.poll()) is None:
            time.sleep(LOOK_S)
            now = time.monotonic()
            ranks = self._look()
            outcome = read_outcome(self.run, after=self.before)
            if gone := _gone(ranks):
                self.on_look(ranks)
                return self._judge_gone(attempt, gone)
            if outcome is not None:
                # Ranks that have ended leave their last heartbeats, which are no hang.
                told_at = told_at or now
                if now - told_at > (END_WAIT_S if outcome.code == ExitCode.OK else FAILED_WAIT_S):
                    break
                continue
            stall = self._hangs.observe(ranks, now)
            self.on_look(ranks)
            if not has_asked and self.should_stop():
                attempt.ask()
                has_asked = True
            if stall is not None:
                return _describe_hang(stall, find_failed_ranks(ranks))
        return self._judge(_gone(self._look()), code)

    def _look(self) -> dict[int, Heartbeat]:
        ranks = {rank: beat for rank, beat in read_heartbeats(self.run).items() if beat.attempt > self.before}
        self.step = max((self.step, *(beat.step for beat in ranks.values())))
        self.has_met |= any(PHASES.index(beat.phase) >= _RESTORE for beat in ranks.values())
        return ranks

    def _judge_gone(self, attempt: Attempt, gone: Sequence[int]) -> Verdict:
        deadline = time.monotonic() + REASON_WAIT_S
        while time.monotonic() < deadline and attempt.poll() is None:
            if read_outcome(self.run, after=self.before) is not None:
                break
            time.sleep(LOOK_S / 5)
        return self._judge(gone, attempt.poll())

    def _judge(self, gone: Sequence[int], code: int | None) -> Verdict:
        outcome = read_outcome(self.run, after=self.before)
        return judge(outcome, gone=gone, exit_code=code, has_met=self.has_met, step=self.step)


def are_training(ranks: Mapping[int, Heartbeat], world_size: int) -> bool:
    """Whether every rank is past its first step."""
    phases = [PHASES.index(beat.phase) for beat in ranks.values()]
    return len(phases) == world_size and min(phases) >= _STEP


def _gone(ranks: Mapping[int, Heartbeat]) -> tuple[int, ...]:
    return tuple(sorted(rank for rank, beat in ranks.items() if beat.state == "gone"))


def _describe_hang(stall: Stall, failed: Sequence[int]) -> Verdict:
    who = f"rank {', '.join(map(str, failed))}" if failed else "a rank that cannot be told from the others"
    reason = (
        f"{who} has begun nothing new for {stall.seconds:.0f} s, in {stall.phase} of step {stall.step} "
        f"(limit {stall.limit_s:.0f} s)"
    )
    return Verdict(cause=Cause.HANG, reason=reason, ranks=tuple(failed))
