"""Effective training time: the share of a run that failures and checkpoints leave, and the best interval."""

from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True, kw_only=True)
class CheckpointCosts:
    """Seconds of one checkpoint and of one failure.

    stall_s: training waits for a save. write_s: until the save is complete and may be resumed from.
    recovery_s: from a failure until the first new step. mtbf_s: between failures of all GPUs in use.
    """

    stall_s: float
    write_s: float
    recovery_s: float
    mtbf_s: float

    def training_time_ratio(self, interval_s: float) -> float:
        """ETTR: useful seconds over all seconds, with a checkpoint every `interval_s` seconds of training.

        1 / (1 + s/T + (R + T/2 + w)/M): each interval pays a stall; each failure, which comes once in M, a
        recovery, half an interval of lost steps on average, and the save that was under way.
        """
        lost_s = self.recovery_s + interval_s / 2 + self.write_s
        return 1 / (1 + self.stall_s / interval_s + lost_s / self.mtbf_s)

    @property
    def best_interval_s(self) -> float:
        """Where ETTR is largest: the zero of its derivative, sqrt(2·s·M), but no shorter than one save."""
        return max(self.write_s, sqrt(2 * self.stall_s * self.mtbf_s))
