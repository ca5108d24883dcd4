"""Recovery of a run after a loss: its seconds, from the last progress before it to the first new step."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.files import read_file
from planner.heartbeats import PHASES, Heartbeat
from planner.units import plural

_RESTORE, _FIRST_STEP = PHASES.index("restore"), PHASES.index("first step")


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Seconds by the supervisor's clock, which sees the ranks once a second.

    detect: from the last progress of the failed attempt to the verdict. decide: until the next attempt is
    started: ranks are ended, hosts asked, files written. start: until every rank has its engine. load: until
    the checkpoint is read. replay: until the ranks are at the step again at which the run was cut off.
    """

    detect_s: float
    decide_s: float
    start_s: float
    load_s: float
    replay_s: float
    replayed_steps: int

    @property
    def total_s(self) -> float:
        return self.restart_s + self.replay_s

    @property
    def restart_s(self) -> float:
        """Without the steps that are trained again, which depend on when the last checkpoint was."""
        return self.detect_s + self.decide_s + self.start_s + self.load_s

    def __str__(self) -> str:
        parts = (
            f"{name} {getattr(self, f'{name}_s'):.1f}"
            for name in ("detect", "decide", "start", "load", "replay")
        )
        steps = plural(self.replayed_steps, "step")
        return f"recovered in {self.total_s:.1f} s: {', '.join(parts)} ({steps} trained again)"


def newest_checkpoint(run_folder: Path) -> int:
    """The step that `latest` names, as it does once a save is whole; 0 where it names none."""
    try:
        name = read_file(run_folder / "checkpoints" / "latest").decode()
        return int(name.removeprefix("step-"))
    except (OSError, ValueError):
        return 0


class RecoveryClock:
    """Follows one recovery.

    Args:
        progress: when the failed attempt last got further. verdict: when its end was judged; both in seconds
            of a monotonic clock.
        step: at which it was cut off; 0: before its first.
        saved: the step of the newest checkpoint; 0: there is none.
    """

    def __init__(self, *, progress: float, verdict: float, step: int, saved: int) -> None:
        self.step = step
        self._saved = saved
        self._progress, self._verdict = progress, verdict
        self._started = self._built = self._loaded = 0.0

    def start(self, now: float) -> None:
        """The next attempt is started."""
        self._started, self._built, self._loaded = now, 0.0, 0.0

    def observe(self, ranks: Mapping[int, Heartbeat], world_size: int, now: float) -> Recovery | None:
        """The recovery, once it is complete.

        Args:
            ranks: of this attempt.
        """
        if len(ranks) < world_size:
            return None
        phase = min(PHASES.index(beat.phase) for beat in ranks.values())
        if phase >= _RESTORE and not self._built:
            self._built = now
        if phase >= _FIRST_STEP and not self._loaded:
            self._loaded = now
        is_there = min(beat.step for beat in ranks.values()) >= self.step
        return self.complete(now) if self._loaded and is_there else None

    def complete(self, now: float) -> Recovery | None:
        """Where the attempt was done before its ranks were seen again; None if none was seen to train."""
        if not self._loaded:
            return None
        return Recovery(
            detect_s=self._verdict - self._progress,
            decide_s=self._started - self._verdict,
            start_s=self._built - self._started,
            load_s=self._loaded - self._built,
            replay_s=now - self._loaded,
            replayed_steps=max(0, self.step - 1 - self._saved),
        )
