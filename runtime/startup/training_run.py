"""Training run of one rank around its steps: world, checkpoints, telemetry, stop requests, result."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from deepspeed.runtime.engine import DeepSpeedEngine

from planner.exit_codes import ExitCode
from runtime.checkpoint.commit import FOLDER_NAME as CHECKPOINTS_NAME
from runtime.checkpoint.manifest import CheckpointError
from runtime.checkpoint.save_restore import Saver, restore
from runtime.data import TokenData
from runtime.data.cache import TOKENIZER_NAME
from runtime.parallel.device import (
    join_world,
    mean_over_world,
    peak_memory_bytes,
    sum_over_world,
    take_device,
)
from runtime.parallel.groups import RankGroups
from runtime.process.job import job_of_rank
from runtime.process.pulse import record_folder
from runtime.startup.claims import holds, is_gone
from runtime.startup.consensus import StartDecision, agree_on_groups, should_stop
from runtime.startup.context import RunContext
from runtime.startup.exit_reporter import ExitReporter
from runtime.startup.heartbeats import begin_heartbeats
from runtime.telemetry.expert_load import ExpertLoadMeter
from runtime.telemetry.reporter import RunReporter
from runtime.telemetry.step_timeline import Timeline
from runtime.training.trainer import StepReport


class TrainingRun:
    """A context around the steps: inside of it telemetry and the progress line are open."""

    def __init__(self, context: RunContext, decision: StartDecision, exit_reporter: ExitReporter) -> None:
        assert context.folder is not None, "a plan names its folder"
        self.plan, self.rank = context.plan, context.rank
        self.horizon = decision.horizon
        self.data_entry = Path(decision.data_entry)
        self.last_step = context.plan.strategy.training.steps
        self._context, self._decision, self._exit_reporter = context, decision, exit_reporter
        self.folder = self._folder = context.folder
        self._is_save_due = False
        self.pulse = begin_heartbeats(context, exit_reporter.fail_now)

    def join_world(self) -> torch.device:
        """Takes this rank's device and joins the world of all ranks. Collective."""
        self._device = take_device(self.plan, self._context.identity)
        assert self._context.store is not None, "the ranks met at a store"
        join_world(self.plan, self._context.identity, self._context.store, self._device)
        return self._device

    def agree_on_groups(self, make_engine: Callable[[], DeepSpeedEngine]) -> DeepSpeedEngine:
        """The engine, once DeepSpeed's groups are the plan's on every rank. Collective."""
        return agree_on_groups(make_engine, self._context, self._device)

    def restore(self, engine: DeepSpeedEngine, groups: RankGroups, data: TokenData) -> int:
        """Loads the checkpoint to resume from, if any; returns the first step to train. Collective."""
        self.pulse.enter("restore")
        decision, folder, attempt = self._decision, self._folder, self._decision.attempt
        done = restore(Path(decision.checkpoint), engine, groups) if decision.checkpoint else 0
        self._context.checkpoint = done or None
        assert decision.fingerprints is not None
        self._saver = Saver(
            plan=self.plan,
            engine=engine,
            groups=groups,
            folder=folder / CHECKPOINTS_NAME,
            files={TOKENIZER_NAME: folder / TOKENIZER_NAME},
            prints=decision.fingerprints,
            attempt=attempt,
            horizon=decision.horizon,
            end_of_text=data.end_of_text,
            holds=self._holds,
            on_written=self._note_checkpoint,
        )
        self._reporter = RunReporter(
            self.plan,
            folder,
            self.rank,
            attempt=attempt,
            first_step=done + 1,
            device=self._device,
            host_folder=record_folder(job_of_rank()),
        )
        self._load_meter = ExpertLoadMeter(self.plan, self.rank, self._device)
        self._timeline = Timeline(plan=self.plan, rank=self.rank, folder=folder, attempt=attempt, done=done)
        return done + 1

    def _note_checkpoint(self, step: int) -> None:
        self._context.checkpoint = step

    def _holds(self) -> bool:
        """Whether no newer attempt has claimed the run.

        Raises:
            CheckpointError: if the run's folder is gone; saving would begin a new one.
        """
        if is_gone(self._folder, self._decision.attempt):
            raise CheckpointError("SW820", f"{self._folder} was deleted or moved while it was trained")
        return holds(self._folder, self._decision.attempt)

    @property
    def traced_step(self) -> int:
        """The step whose timeline is drawn."""
        return self._timeline.step

    def __enter__(self) -> "TrainingRun":
        self._context.stop.begin_steps()
        self._files = contextlib.ExitStack()
        self._files.enter_context(self._reporter)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def observe(self, report: StepReport) -> None:
        """Telemetry, progress line and, of the traced step, the timeline. Collective over the world."""
        self._reporter.observe(report, self._load_meter.measure(report.result.expert_tokens))
        if report.step == self.traced_step:
            self._timeline.write(report.result, report.spans)

    def should_stop(self) -> bool:
        """Whether any rank was asked to stop, or could not save. Collective over the world."""
        return should_stop(self._context, self._device, is_failed=self._saver.has_failed)

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due: every `output.checkpoint_every` steps and after the last.

        It stays due until it is written: what is not sound must not replace the last good weights.
        """
        self._is_save_due |= step % self.plan.strategy.output.checkpoint_every == 0
        return self._is_save_due or step == self.last_step

    def save(self, step: int) -> None:
        """Writes a checkpoint, or begins to (output.async_save). Collective over the world."""
        self.pulse.enter("save", step)
        self._saver.save(step, self._reporter.result())
        self._is_save_due = False

    def finish_saving(self) -> None:
        """Waits until the last checkpoint is written. Collective over the world."""
        self._saver.finish()

    def finish(self) -> ExitCode:
        """Reports the result, or that the run was stopped before its last step. Collective over the world."""
        result = self._reporter.result()
        self.pulse.enter("end", result["step"])
        if result["step"] < self.last_step:
            asked = self._context.stop.asked or "a signal to another rank"
            return self._exit_reporter.stopped(f"by {asked}", after_step=result["step"])
        result |= {
            "peak_memory_bytes": sum_over_world(peak_memory_bytes(self._device), self._device),
            "stage_wait_share": mean_over_world(self._reporter.stage_wait_share(), self._device),
        }
        if self.rank == 0:
            picture = self._reporter.draw_pictures()
            result["picture"] = None if picture is None else picture.name
            self._reporter.print_summary(result)
        return self._exit_reporter.done(result)
