"""The steps of a run: batches, updates, validation, checkpoints, and a clean end when one is asked for."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine

from planner import Plan
from runtime.data.dataset import TokenData
from runtime.parallel.groups import RankGroups
from runtime.process.stop_signals import StopRequest
from runtime.profiling.phase_clock import PhaseClock
from runtime.training.lr_schedule import learning_rate
from runtime.training.replica_check import check_replicas
from runtime.training.train_step import (
    StepResult,
    train_step,
    training_batches,
    validation_batches,
    validation_loss,
)
from runtime.training.training_model import Totals

logger = logging.getLogger(__name__)

# A gradient that is not finite is passed over; this many in a row are no accident.
MAX_SKIPPED = 10


class Diverged(RuntimeError):
    """Step after step had a gradient that is not finite."""


class StepTimeline(Protocol):
    """Keeps the spans of one step (runtime.telemetry.step_timeline)."""

    def catch(self, step: int, clock: PhaseClock) -> bool: ...

    def keep(self, result: StepResult, clock: PhaseClock) -> None: ...


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What is told of a step. Losses are means over valid tokens; `tokens` are those of the global batch;
    `phases_s` sum to the step's time."""

    step: int
    result: StepResult
    validation_loss: float | None
    learning_rate: float
    tokens: int
    phases_s: dict[str, float]


@dataclass(kw_only=True)
class Loop:
    """One rank's training from step `first_step` (counted from 1) to the strategy's last."""

    plan: Plan
    engine: DeepSpeedEngine
    groups: RankGroups
    data: TokenData
    clock: PhaseClock
    stop: StopRequest
    tell: Callable[[StepReport], None]
    save: Callable[[int], None]
    first_step: int
    horizon: int
    timeline: StepTimeline | None = None

    def run(self) -> int:
        """Trains; returns the last step done: the strategy's, or an earlier one when asked to stop.

        Every step that ends the run, or is a multiple of `output.checkpoint_every`, is saved; the latter
        waits for a step whose gradient is finite, lest broken weights take the place of the last good ones.

        Raises:
            runtime.training.replica_check.ReplicasDiverged: if copies of a parameter are no longer the same.
            Diverged: if too many steps in a row had a gradient that is not finite.
        """
        training, output = self.plan.strategy.training, self.plan.strategy.output
        last_step = training.steps
        skipped, is_due = 0, False
        for step in range(self.first_step, last_step + 1):
            report = self._step(step, validate=step % output.validate_every == 0 or step == last_step)
            self.tell(report)
            skipped = skipped + 1 if report.result.skipped else 0
            if skipped and self.groups.rank == 0:  # the norm, and so the warning, is the same on all ranks
                logger.warning("step %d: the gradient is not finite; no update was made", step)
            if skipped == MAX_SKIPPED:
                raise Diverged(
                    f"{MAX_SKIPPED} steps in a row (to step {step}) had a gradient that is not finite; "
                    "the last checkpoint is from before them: branch from this run with a lower "
                    "training.learning_rate (output.resume=RUN output.branch=true name=NEW)"
                )
            if step % self.plan.strategy.runtime.check_replicas_every == 0:
                check_replicas(self.engine.module, self.groups)
            stopping = self.stop.boundary(self._any_rank)
            is_due = is_due or step % output.checkpoint_every == 0
            if stopping or step == last_step or (is_due and not skipped):
                self.save(step)
                is_due = False
            if stopping:
                return step
        return last_step

    def _step(self, step: int, *, validate: bool) -> StepReport:
        training, batch = self.plan.strategy.training, self.plan.batch
        rate = learning_rate(step, training, self.horizon)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        is_caught = self.timeline is not None and self.timeline.catch(step, self.clock)
        self.clock.reset()  # a step is not charged for the validation or checkpoint before it
        with self.clock.phase("data"):
            micro_batches = training_batches(
                lambda rows: self.data.train_rows(step - 1, rows),
                batch,
                self.groups.stage,
                self.groups.data.rank,
                self.engine.device,
            )
        # Packed data: every position is valid.
        num_tokens = batch.global_batch * training.seq_length
        totals = Totals(num_tokens=num_tokens, num_sequences=batch.global_batch)
        result = train_step(self.engine, self.groups, micro_batches, totals, self.clock)
        phases_s = self.clock.reset()
        if self.timeline is not None and is_caught:
            self.timeline.keep(result, self.clock)
        return StepReport(
            step=step,
            result=result,
            validation_loss=self._validate() if validate else None,
            learning_rate=rate,
            tokens=num_tokens,
            phases_s=phases_s,
        )

    def _any_rank(self, flag: bool) -> bool:
        """A one-byte MAX all-reduce."""
        byte = torch.tensor([flag], dtype=torch.uint8, device=self.engine.device)
        dist.all_reduce(byte, op=dist.ReduceOp.MAX)
        return bool(byte.item())

    def _validate(self) -> float:
        num_sequences = self.data.num_validation_sequences
        micro_batches = validation_batches(
            self.data.validation_rows,
            num_sequences,
            self.plan.batch,
            self.groups.stage,
            self.groups.data.rank,
            self.engine.device,
        )
        num_tokens = num_sequences * self.plan.strategy.training.seq_length
        totals = Totals(num_tokens=num_tokens, num_sequences=num_sequences)
        return validation_loss(self.engine, self.groups, micro_batches, totals)
