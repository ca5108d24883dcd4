"""Checks for silent corruption around a step: which are due, when they run, and what they cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from planner import Plan
from runtime.parallel.groups import RankGroups
from runtime.training.micro_batch_replay import MicroBatchReplay
from runtime.training.replica_check import check_replicas
from runtime.training.training_model import Sums


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was checked in a step, for telemetry. replayed: the micro-batch that was computed twice."""

    replicas: bool
    replayed: int | None
    seconds: float


class StepChecks:
    """Of one rank.

    Every `runtime.check_replicas_every` steps copies are compared twice: before the update, as ZeRO's gather
    then overwrites the weights that the step was computed with; and after it, as the next step begins with
    the result. Every `runtime.replay_every` steps a micro-batch is computed twice, each in its turn. A step
    that is followed by a checkpoint is checked in both ways, so that a run resumes from what was checked.
    """

    def __init__(self, plan: Plan, engine: DeepSpeedEngine, groups: RankGroups, folder: Path | None) -> None:
        """`folder`: of the run, for tensors that differ."""
        self._plan, self._engine, self._groups, self._folder = plan, engine, groups, folder
        self._step = self._checked_after = 0
        self._replay: MicroBatchReplay | None = None
        self._seconds = 0.0

    def begin(self, step: int) -> MicroBatchReplay | None:
        """The replay of this step, if one is due."""
        runtime = self._plan.strategy.runtime
        self._step, self._seconds, self._replay = step, 0.0, None
        every = runtime.replay_every
        if every is not None and (step % every == 0 or self._is_saved()):
            micro_batch = step // every % self._plan.batch.accumulation
            self._replay = MicroBatchReplay(self._engine, self._groups, micro_batch)
        return self._replay

    @property
    def are_due(self) -> bool:
        """In this step, before the update."""
        return self._replay is not None or self._compares_replicas()

    def replay(self, run: Callable[[int], tuple[Tensor, Sums]]) -> None:
        """Between the last backward pass and the update; nothing where no replay is due. Collective.

        Args:
            run: the forward pass of a micro-batch.

        Raises:
            runtime.training.corruption.Corrupted: on every rank.
        """
        replay = self._replay
        if replay is not None:
            self._time(lambda: replay.compare(lambda: run(replay.micro_batch), self._step, self._folder))

    def before_update(self) -> None:
        """After `replay`. Collective over the world.

        Raises:
            runtime.training.corruption.Corrupted: on every rank.
        """
        if self._compares_replicas():
            self._time(self._check_replicas)

    def after_update(self) -> None:
        """Collective over the world.

        Raises:
            runtime.training.corruption.Corrupted: on every rank.
        """
        if self._compares_replicas():
            self.before_save()

    def before_save(self) -> None:
        """What a checkpoint is written from, if it was not compared after the step already. Collective.

        Raises:
            runtime.training.corruption.Corrupted: on every rank.
        """
        if self._checked_after != self._step:
            self._time(self._check_replicas)
            self._checked_after = self._step

    @property
    def checked(self) -> Checked | None:
        """Of this step; None: nothing was due."""
        if not self.are_due:
            return None
        return Checked(
            replicas=self._compares_replicas(),
            replayed=None if self._replay is None else self._replay.micro_batch,
            seconds=round(self._seconds, 6),
        )

    def _compares_replicas(self) -> bool:
        return self._step % self._plan.strategy.runtime.check_replicas_every == 0 or self._is_saved()

    def _is_saved(self) -> bool:
        strategy = self._plan.strategy
        return self._step % strategy.output.checkpoint_every == 0 or self._step == strategy.training.steps

    def _check_replicas(self) -> None:
        check_replicas(self._engine, self._groups, self._step, self._folder)

    def _time(self, check: Callable[[], None]) -> None:
        began = time.monotonic()
        check()
        self._seconds += time.monotonic() - began
