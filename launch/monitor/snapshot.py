"""Snapshot of a run: what it is doing, at one look, as data for whatever shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from launch.monitor.straggler import Slowest
from launch.run_folder.description import RunDescription
from launch.run_folder.experts import ExpertHealth
from launch.run_folder.limits import LimitReading
from launch.run_folder.records import RankRecord, StepRecord
from planner.heartbeats import Heartbeat


class State(Enum):
    """Of a run. The value is how it is called."""

    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    TRAINING = "training"
    STARTING = "starting"
    SILENT = "no sign of life"
    NOT_STARTED = "not started"

    @property
    def is_over(self) -> bool:
        return self in (State.DONE, State.FAILED, State.STOPPED)


@dataclass(frozen=True, kw_only=True)
class RankView:
    """One rank. record: its last step; None: it has written none. silent_s: since its heartbeat changed."""

    rank: int
    host: str | None
    stage: str | None
    record: RankRecord | None
    heartbeat: Heartbeat | None
    silent_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Over the last steps: medians. eta_s: until the last step, at that pace; without saves."""

    step_s: float
    tokens_per_s: float | None
    mfu: float | None
    phases_s: Mapping[str, float]
    predicted_step_s: float | None
    eta_s: float | None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """state_detail: why it failed, since when it is silent. alarms: what somebody should look at. notes: what
    the files do not tell, or tell oddly. goodput: 0 to 1. num_steps: of the whole run; None: not known."""

    run: RunDescription
    state: State
    state_detail: str
    last: StepRecord | None
    validation_loss: float | None
    num_steps: int | None
    attempt: int
    throughput: Throughput | None
    goodput: float | None
    ranks: tuple[RankView, ...]
    slowest: Slowest | None
    limits: tuple[LimitReading, ...]
    experts: ExpertHealth | None
    dropped_share: float | None
    alarms: tuple[str, ...]
    notes: tuple[str, ...]
    journal: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.run.folder
