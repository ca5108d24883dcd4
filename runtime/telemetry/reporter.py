"""Tells of a run: every rank its own lines; rank 0 the run's, TensorBoard, the terminal, the picture."""

import contextlib
import logging
import math
import statistics
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from planner import Plan, StrategyError
from planner.hardware.catalog import Device, calibration_path, device_of
from planner.prediction.predict import predict, predicted_phases
from runtime.profiling.phase_clock import step_s
from runtime.telemetry import loss_curve, step_timeline
from runtime.telemetry.progress_line import ProgressLine
from runtime.telemetry.records import RankLine, StepLine, Telemetry, memory_bytes
from runtime.training.loop import StepReport

logger = logging.getLogger(__name__)


class Teller:
    """A context around the steps of one rank; remembers what the run's result is made of."""

    def __init__(
        self, plan: Plan, run_folder: Path, rank: int, *, attempt: int, first_step: int, device_type: str
    ) -> None:
        self._plan, self._run_folder, self._device_type = plan, run_folder, device_type
        self._first_step = first_step
        tensorboard = plan.strategy.operate.tensorboard
        self._telemetry = Telemetry(
            run_folder, rank, attempt=attempt, first_step=first_step, tensorboard=tensorboard
        )
        last_step = plan.strategy.training.steps
        self._predicted = _predicted(plan) if rank == 0 else {}
        self._progress = ProgressLine(first_step=first_step, last_step=last_step) if rank == 0 else None
        self._context = contextlib.ExitStack()
        self._began = time.monotonic()
        self._first: StepReport | None = None
        self._last: StepReport | None = None
        self._wait_shares: list[float] = []

    def __enter__(self) -> "Teller":
        self._context.callback(self._telemetry.close)
        if self._progress is not None:
            self._context.enter_context(self._progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.close()

    def step(self, report: StepReport) -> None:
        """Keeps and shows one step."""
        self._first = self._first or report
        self._last = report
        self._wait_shares.append(report.phases_s["stage_wait"] / step_s(report.phases_s))
        result = report.result
        self._telemetry.rank_step(
            RankLine(
                step=report.step,
                phases_s=report.phases_s,
                memory_bytes=memory_bytes(self._device_type),
                expert_tokens=result.expert_tokens.tolist(),
            )
        )
        if self._progress is None:
            return
        line = StepLine(
            step=report.step,
            loss=result.loss,
            validation_loss=report.validation_loss,
            learning_rate=report.learning_rate,
            grad_norm=result.grad_norm,
            tokens=report.tokens,
            phases_s=report.phases_s,
            dropped_tokens=result.dropped_tokens,
            predicted=self._predicted,
        )
        self._telemetry.step(line)
        self._progress.step(
            report.step,
            loss=result.loss,
            validation_loss=report.validation_loss,
            tokens_per_s=line.tokens_per_s,
        )

    def result(self) -> dict[str, Any]:
        """What came of the steps so far, as done.json holds it. Losses are those of this attempt."""
        assert self._first is not None, "no step was made"
        assert self._last is not None
        return {
            "step": self._last.step,
            "loss": _plain(self._last.result.loss),
            "validation_loss": _plain(self._last.validation_loss),
            "first_step": self._first.step,
            "first_loss": _plain(self._first.result.loss),
            "seconds": round(time.monotonic() - self._began, 1),
        }

    def stage_wait_share(self) -> float:
        """The part of a step in which this rank waited for other stages: median over this attempt's steps."""
        return statistics.median(self._wait_shares)

    def pictures(self) -> Path:
        """Draws loss.png, which it returns, and timeline.png; for rank 0."""
        strategy = self._plan.strategy
        step_timeline.draw(self._run_folder)
        return loss_curve.draw(self._run_folder, title=strategy.name, vocab_size=strategy.model.vocab_size)

    def farewell(self, result: dict[str, Any]) -> None:
        """The result on the terminal; for rank 0."""
        minutes, seconds = divmod(round(result["seconds"]), 60)
        memory = result["peak_memory_bytes"] / 2**30
        first, last, validation = (_told(result[key]) for key in ("first_loss", "loss", "validation_loss"))
        print(
            f"{self._run_folder}: step {result['step']}, loss {first} → {last}, validation {validation}; "
            f"{minutes}:{seconds:02d} min, {memory:.1f} GiB over all ranks at their peaks",
            flush=True,
        )
        if len(self._plan.stages) > 1:
            expected = predict(self._plan, _device(self._plan))
            print(
                f"ranks waited {result['stage_wait_share']:.1%} of a step for other stages (median of the "
                f"steps, mean over ranks); predicted were {expected.stage_wait_share:.1%}, of which "
                f"{expected.bubble_share:.1%} bubble and the rest transfer",
                flush=True,
            )


def _predicted(plan: Plan) -> dict[str, float]:
    """What the planner expects of rank 0's steps, for the ledger."""
    return predicted_phases(plan, 0, _device(plan))


def _device(plan: Plan) -> Device:
    """What is known of the device; a damaged calibration stops no run."""
    gpu = plan.strategy.cluster.gpu
    try:
        return device_of(gpu, calibration_path(plan.strategy.output.folder))
    except StrategyError as error:
        logger.warning("the prediction rests on the shipped numbers: %s", error)
        return device_of(gpu)


def _told(loss: float | None) -> str:
    """As a person reads it; the last step is always validated, so that a number is missing only for this."""
    return "not finite" if loss is None else f"{loss:.3f}"


def _plain(value: float | None) -> float | None:
    """JSON has no NaN: what is not finite is null."""
    return value if value is not None and math.isfinite(value) else None
