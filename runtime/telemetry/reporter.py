"""Per-step reporting: telemetry of every rank; on rank 0 also the run's, TensorBoard, progress, pictures."""

import contextlib
import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from planner import Plan, StrategyError
from planner.counts.flops import batch_flops
from planner.hardware.catalog import Device, calibration_path, device_of
from planner.prediction.predict import predict, predicted_phases
from planner.run_files import RANKS_NAME
from planner.timing.gemm_time import rate
from runtime.profiling.phase_clock import step_s
from runtime.telemetry import loss_curve, step_timeline
from runtime.telemetry.expert_load import ExpertLoad
from runtime.telemetry.gpu_counters import GpuCounters
from runtime.telemetry.host_records import GATHER_FROM, HostRecords
from runtime.telemetry.loss_curve import draw_loss_curve
from runtime.telemetry.progress_line import ProgressLine
from runtime.telemetry.records import RankLine, StepLine, Telemetry, memory_bytes
from runtime.telemetry.step_timeline import draw_timeline
from runtime.telemetry.wandb_log import WandbLog
from runtime.training.trainer import StepReport

logger = logging.getLogger(__name__)


class RunReporter:
    """A context around the steps of one rank; keeps what the run's result is made of."""

    def __init__(
        self,
        plan: Plan,
        run_folder: Path,
        rank: int,
        *,
        attempt: int,
        first_step: int,
        device: torch.device,
        host_folder: Path | None = None,
    ) -> None:
        """
        Args:
            host_folder: in memory, shared by the ranks of this host: a large world's ranks put their steps
                there. None: each has a file of its own, however large the world.
        """
        self._plan, self._run_folder, self._device = plan, run_folder, device
        self._first_step = first_step
        self._telemetry = Telemetry(
            run_folder,
            rank,
            attempt=attempt,
            first_step=first_step,
            tensorboard=plan.strategy.operate.tensorboard,
            host_records=_host_records(plan, run_folder, rank, host_folder),
            wandb=_open_wandb(plan, run_folder, attempt) if rank == 0 else None,
        )
        self._gpu = GpuCounters(device)
        forced = plan.strategy.runtime.force_routing
        self._force_routing = None if forced is None else forced.model_dump(exclude_none=True)
        last_step = plan.strategy.training.steps
        self._predicted = _predicted(plan) if rank == 0 else {}
        self._peak_flops = _peak_flops(plan) if rank == 0 else 0.0
        self._progress = ProgressLine(first_step=first_step, last_step=last_step) if rank == 0 else None
        self._context = contextlib.ExitStack()
        self._began = time.monotonic()
        self._first: StepReport | None = None
        self._last: StepReport | None = None
        self._wait_shares: list[float] = []

    def __enter__(self) -> "RunReporter":
        if self._progress is not None:
            self._context.enter_context(self._progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.close()
        self._telemetry.close(is_complete=kind is None)

    def observe(self, report: StepReport, load: ExpertLoad | None = None) -> None:
        """Writes and shows one step; load: of the experts, on rank 0."""
        self._first = self._first or report
        self._last = report
        self._wait_shares.append(report.phases_s["stage_wait"] / step_s(report.phases_s))
        result = report.result
        self._telemetry.append_rank_step(
            RankLine(
                step=report.step,
                phases_s=report.phases_s,
                memory_bytes=memory_bytes(self._device.type),
                expert_tokens=result.expert_tokens.tolist(),
                gpu=self._gpu.read(),
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
            tokens=report.totals.num_tokens,
            targets=report.totals.num_targets,
            model_flops=batch_flops(
                self._plan.strategy.model, report.totals.num_tokens, report.totals.num_pairs
            ).total,
            peak_flops=self._peak_flops,
            phases_s=report.phases_s,
            dropped_tokens=result.dropped_tokens,
            predicted=self._predicted,
            force_routing=self._force_routing,
            load=load,
            checked=None if report.checked is None else asdict(report.checked),
            elapsed_s=round(time.monotonic() - self._began, 3),
        )
        self._telemetry.append_step(line)
        self._progress.show_step(
            report.step,
            loss=result.loss,
            validation_loss=report.validation_loss,
            tokens_per_s=line.tokens_per_s,
        )

    def result(self) -> dict[str, Any]:
        """The result of the steps so far, as in done.json. Losses are those of this attempt."""
        assert self._first is not None, "no step was trained"
        assert self._last is not None
        return {
            "step": self._last.step,
            "loss": _plain(self._last.result.loss),
            "validation_loss": _plain(self._last.validation_loss),
            "first_step": self._first.step,
            "first_loss": _plain(self._first.result.loss),
            "seconds": round(time.monotonic() - self._began, 1),
            "force_routing": self._force_routing,
        }

    def stage_wait_share(self) -> float:
        """The share of a step in which this rank waits for other stages: median over this attempt."""
        return statistics.median(self._wait_shares)

    def draw_pictures(self) -> Path | None:
        """Draws timeline.png and loss.png, whose path it returns; on rank 0.

        A picture that cannot be drawn is a warning, and None if it is loss.png: the run is trained and saved.
        """
        folder, strategy = self._run_folder, self._plan.strategy
        _drawn(step_timeline.PICTURE_NAME, lambda: draw_timeline(folder))
        return _drawn(
            loss_curve.PICTURE_NAME,
            lambda: draw_loss_curve(folder, title=strategy.name, vocab_size=strategy.model.vocab_size),
        )

    def print_summary(self, result: dict[str, Any]) -> None:
        """Prints the result; on rank 0."""
        minutes, seconds = divmod(round(result["seconds"]), 60)
        memory = result["peak_memory_bytes"] / 2**30
        first, last, validation = (_as_text(result[key]) for key in ("first_loss", "loss", "validation_loss"))
        print(
            f"{self._run_folder}: step {result['step']}, loss {first} → {last}, validation {validation}; "
            f"{minutes}:{seconds:02d} min, {memory:.1f} GiB peak memory (sum over ranks)",
            flush=True,
        )
        if len(self._plan.stages) > 1:
            expected = predict(self._plan, _device(self._plan))
            print(
                f"ranks waited {result['stage_wait_share']:.1%} of a step for other stages (median over "
                f"steps, mean over ranks); predicted: {expected.stage_wait_share:.1%}, of which "
                f"{expected.bubble_share:.1%} pipeline bubble and the rest transfers",
                flush=True,
            )


def _open_wandb(plan: Plan, run_folder: Path, attempt: int) -> WandbLog | None:
    return None if plan.strategy.operate.wandb is None else WandbLog(plan, run_folder, attempt=attempt)


def _host_records(plan: Plan, run_folder: Path, rank: int, folder: Path | None) -> HostRecords | None:
    if folder is None or plan.world_size < GATHER_FROM:
        return None
    host = plan.host_of(rank)
    return HostRecords(
        run_folder / RANKS_NAME / f"host-{host.name.replace('/', '_')}.jsonl",
        folder,
        rank=rank,
        ranks=host.ranks,
        stages={rank: plan.stage_of(rank).name for rank in host.ranks},
    )


def _drawn(name: str, draw: Callable[[], Path | None]) -> Path | None:
    try:
        return draw()
    except Exception as error:  # no matplotlib, a full disk, a damaged telemetry: whatever it is
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("SW965 %s could not be drawn: %s", name, reason)
        return None


def _predicted(plan: Plan) -> dict[str, float]:
    """The planner's prediction of rank 0's phases, for the ledger."""
    return predicted_phases(plan, 0, _device(plan))


def _peak_flops(plan: Plan) -> float:
    """FLOP/s of all ranks together, as the prediction's MFU has it."""
    return plan.world_size * rate(_device(plan), plan.strategy.training.precision)[0]


def _device(plan: Plan) -> Device:
    """The catalog's device with its calibration, if that can be read: a damaged one stops no run."""
    gpu = plan.strategy.cluster.gpu
    try:
        return device_of(gpu, calibration_path(plan.strategy.output.folder))
    except StrategyError as error:
        logger.warning("SW961 the calibration is ignored for the predicted times: %s", error)
        return device_of(gpu)


def _as_text(loss: float | None) -> str:
    """For a person; the last step is always validated, so a number is missing only if it is not finite."""
    return "not finite" if loss is None else f"{loss:.3f}"


def _plain(value: float | None) -> float | None:
    """JSON has no NaN: a number that is not finite is null."""
    return value if value is not None and math.isfinite(value) else None
