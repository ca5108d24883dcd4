"""Trainer of one rank: a step from its batch to its report, validation, and the checks that end a run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepspeed.runtime.engine import DeepSpeedEngine

from planner import Plan
from runtime.data.dataset import TokenData
from runtime.data.rows import Totals
from runtime.parallel.groups import RankGroups
from runtime.process.pulse import Pulse
from runtime.profiling.phase_clock import PhaseClock, TimeSpan
from runtime.training.forced_experts import forced_experts
from runtime.training.garbage_collection import freeze_what_stays, no_collection
from runtime.training.loss_guard import Diverged, LossGuard
from runtime.training.lr_schedule import learning_rate
from runtime.training.micro_batch import training_batches, validation_batches
from runtime.training.step_checks import Checked, StepChecks
from runtime.training.train_step import StepResult, train_step, validation_loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One step on this rank. Losses are means over targets; totals: of the global batch.

    phases_s sum to the step's time; spans: the same phases one by one, of the traced step only. checked: for
    silent corruption; None: nothing was due.
    """

    step: int
    result: StepResult
    validation_loss: float | None
    learning_rate: float
    totals: Totals
    phases_s: dict[str, float]
    spans: tuple[TimeSpan, ...] = ()
    checked: Checked | None = None


@dataclass(kw_only=True)
class Trainer:
    """One rank's engine, data and clock.

    horizon: the last step of the learning rate's cosine. recent_losses: of the steps before this attempt's.
    pulse: where the rank's heartbeat reads how far it has got. folder: of the run, for the tensors in which
    silent corruption was found.
    """

    plan: Plan
    engine: DeepSpeedEngine
    groups: RankGroups
    data: TokenData
    clock: PhaseClock
    horizon: int
    traced_step: int | None = None
    recent_losses: Sequence[float] = ()
    pulse: Pulse | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        self._guard = LossGuard(self.plan.strategy.training.steps, self.recent_losses)
        self._checks = StepChecks(self.plan, self.engine, self.groups, self.folder)
        self._has_stepped = False

    def train_step(self, step: int) -> StepReport:
        """Trains step `step` (counted from 1) and validates where it is due. Collective over the world.

        Raises:
            runtime.training.corruption.Corrupted: on every rank, where a check finds different bits.
        """
        self._enter("step" if self._has_stepped else "first step", step)
        training, batch = self.plan.strategy.training, self.plan.batch
        rate = learning_rate(step, training, self.horizon)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        if step == self.traced_step:
            self.clock.record()
        self.clock.reset()  # a step does not include the validation or checkpoint before it
        with self.clock.phase("data"):
            micro_batches = training_batches(
                lambda rows: self.data.train_rows(step - 1, rows),
                batch,
                self.groups.stage,
                self.groups.data.rank,
                self.engine.device,
                forced_experts(self.plan.strategy, step),
            )
            totals = self.data.train_totals(step - 1)
        with no_collection():
            result = train_step(
                self.engine,
                self.groups,
                micro_batches,
                totals,
                self.clock,
                checks=self._checks,
                step=step,
            )
        self._checks.after_update()
        phases_s = self.clock.reset()
        if not self._has_stepped:  # the first step makes the optimizer's state, too
            freeze_what_stays()
            self._has_stepped = True
        spans = self.clock.recorded() if step == self.traced_step else ()
        is_validated = step % self.plan.strategy.output.validate_every == 0 or step == training.steps
        return StepReport(
            step=step,
            result=result,
            validation_loss=self._validate(step) if is_validated else None,
            learning_rate=rate,
            totals=totals,
            phases_s=phases_s,
            spans=spans,
            checked=self._checks.checked,
        )

    @property
    def is_sound(self) -> bool:
        """Whether the weights may replace those of an earlier checkpoint. Equal on all ranks."""
        return self._guard.is_sound

    def check(self, report: StepReport) -> None:
        """Ends a run that trains nothing any more. Collective over the world.

        Raises:
            runtime.training.loss_guard.Diverged: if loss or gradients say so.
        """
        step, skipped = report.step, report.result.skipped
        if skipped and self.groups.rank == 0:  # the norm, and so the warning, is equal on all ranks
            logger.warning("SW951 step %d: the gradient is not finite; the update was skipped", step)
        try:
            self._guard.observe(step, report.result.loss, skipped=skipped)
        except Diverged as error:
            error.sequences = self.data.train_indices(error.first_step - 1).tolist()
            raise

    def check_before_save(self) -> None:
        """Nothing is saved that differs between ranks. Collective over the world.

        Raises:
            runtime.training.corruption.Corrupted: on every rank.
        """
        self._checks.before_save()

    def _enter(self, phase: str, step: int) -> None:
        if self.pulse is not None:
            self.pulse.enter(phase, step)

    def _validate(self, step: int) -> float:
        self._enter("validation", step)
        num_sequences = self.data.num_validation_sequences
        micro_batches = validation_batches(
            self.data.validation_rows,
            num_sequences,
            self.plan.batch,
            self.groups.stage,
            self.groups.data.rank,
            self.engine.device,
        )
        return validation_loss(self.engine, self.groups, micro_batches, self.data.validation_totals())
