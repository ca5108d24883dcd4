"""Telemetry records of each step: telemetry.jsonl and experts.jsonl of the run, ranks/ of each rank, and the
scalars of TensorBoard and Weights & Biases."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.prediction.breakdown import PHASES
from planner.run_files import EXPERTS_NAME, RANKS_NAME, STEPS_NAME
from runtime.files.json_lines import LineFile, LineFileDeletedError
from runtime.profiling.phase_clock import communication_share, step_s, utilization

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from runtime.telemetry.expert_load import ExpertLoad
    from runtime.telemetry.host_records import HostRecords
    from runtime.telemetry.wandb_log import WandbLog

EVENTS_NAME = "tensorboard"


@dataclass(frozen=True, kw_only=True)
class StepLine:
    """One step of the run.

    loss: mean cross-entropy over `targets`. validation_loss: None if not validated.
    grad_norm: before clipping.
    tokens: of this step's global batch, without padding; targets: of them, those with a token to predict.
    model_flops: what the step asks of any machine, as MFU counts it; peak_flops: of all ranks together, a
    second. phases_s: rank 0's, from its clock. predicted: the planner's seconds for the same phases, and its
    step_s. force_routing: as the strategy has it; None: the routers choose. load: of the experts over all
    ranks. elapsed_s: since the attempt's first step began, by a clock that nobody sets. checked: for silent
    corruption: whether copies were compared, the micro-batch that was computed twice, and rank 0's seconds;
    None: nothing was due.
    """

    step: int
    loss: float
    validation_loss: float | None
    learning_rate: float
    grad_norm: float
    tokens: int
    targets: int
    model_flops: int
    peak_flops: float
    phases_s: Mapping[str, float]
    dropped_tokens: int
    predicted: Mapping[str, float] = field(default_factory=dict)
    force_routing: Mapping[str, Any] | None = None
    load: ExpertLoad | None = None
    elapsed_s: float | None = None
    checked: Mapping[str, Any] | None = None

    @property
    def step_s(self) -> float:
        return step_s(self.phases_s)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.step_s if self.step_s > 0 else 0.0

    @property
    def mfu(self) -> float:
        return self.model_flops / (self.step_s * self.peak_flops) if self.step_s > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class RankLine:
    """One step on one rank.

    memory_bytes: see `memory_bytes`. expert_tokens: tokens this rank's routers sent to each expert, before
    any drop: [MoE layers of its stage][num_experts]. gpu: see runtime/telemetry/gpu_counters.py.
    """

    step: int
    phases_s: Mapping[str, float]
    memory_bytes: int
    expert_tokens: Sequence[Sequence[int]]
    gpu: Mapping[str, float] | None = None


class Telemetry:
    """One rank's telemetry. Rank 0 also writes the run's lines and TensorBoard's events.

    A resumed run appends: each line has its attempt, and readers take the last line of a step.
    `first_step` is the first of this attempt; TensorBoard hides what older attempts logged from there on.

    Args:
        host_records: gathers the steps of the host's ranks; None: each rank has a file of its own.
        wandb: takes the run's scalars too; None: not asked for.
    """

    def __init__(
        self,
        run_folder: Path,
        rank: int,
        *,
        attempt: int,
        first_step: int = 1,
        tensorboard: bool = False,
        host_records: HostRecords | None = None,
        wandb: WandbLog | None = None,
    ) -> None:
        self._attempt, self._host_records, self._wandb = attempt, host_records, wandb
        self._events_folder = run_folder / EVENTS_NAME
        own = run_folder / RANKS_NAME / f"rank-{rank:04d}.jsonl"
        self._rank_lines = LineFile(own) if host_records is None else None
        self._step_lines = LineFile(run_folder / STEPS_NAME) if rank == 0 else None
        self._expert_lines = LineFile(run_folder / EXPERTS_NAME) if rank == 0 else None
        self._events = _open_events(run_folder, first_step) if rank == 0 and tensorboard else None

    def append_rank_step(self, line: RankLine) -> None:
        """Append a step of this rank."""
        _check(line.phases_s)
        file = self._rank_lines or self._host_records
        assert file is not None
        file.append(
            {
                "step": line.step,
                "phases_s": line.phases_s,
                "memory_bytes": line.memory_bytes,
                "communication_share": communication_share(line.phases_s),
                "gpu": line.gpu,
                "expert_tokens": line.expert_tokens,
                "attempt": self._attempt,
            }
        )

    def append_step(self, line: StepLine) -> None:
        """Append a step of the run; rank 0 only."""
        assert self._step_lines is not None, "only rank 0 writes the run's steps"
        _check(line.phases_s)
        self._step_lines.append(
            {
                "step": line.step,
                "loss": line.loss,
                "validation_loss": line.validation_loss,
                "learning_rate": line.learning_rate,
                "grad_norm": line.grad_norm,
                "tokens": line.tokens,
                "targets": line.targets,
                "step_s": line.step_s,
                "tokens_per_s": line.tokens_per_s,
                "mfu": line.mfu,
                "phases_s": line.phases_s,
                "predicted": line.predicted,
                "dropped_tokens": line.dropped_tokens,
                "balance": None if line.load is None else line.load.balance,
                "overload": _overload(line),
                "force_routing": line.force_routing,
                "time": time.time(),
                "elapsed_s": line.elapsed_s,
                "checked": line.checked,
                "attempt": self._attempt,
            }
        )
        if line.load is not None and self._expert_lines is not None:
            self._expert_lines.append(
                {"step": line.step, "tokens": line.load.tokens, "attempt": self._attempt}
            )
        if self._events is not None:
            # Its thread would print a traceback, and raise it at a later step.
            if not self._events_folder.is_dir():
                raise LineFileDeletedError(self._events_folder)
            for name, value in _scalars(line).items():
                self._events.add_scalar(name, value, line.step)
        if self._wandb is not None:
            self._wandb.log(_scalars(line), line.step)

    def close(self, *, is_complete: bool = True) -> None:
        """Flush and close the files; is_complete: whether all ranks have come to the same step."""
        if self._host_records is not None:
            self._host_records.close(is_complete=is_complete)
        for file in (self._rank_lines, self._step_lines, self._expert_lines):
            if file is not None:
                file.close()
        if self._wandb is not None:
            self._wandb.close(exit_code=0 if is_complete else 1)
        if self._events is not None and self._events_folder.is_dir():
            self._events.close()


def memory_bytes(device_type: str) -> int:
    """Memory of this rank: on a GPU the peak allocated so far, on a CPU resident now."""
    if device_type != "cpu":
        import torch

        return int(torch.get_device_module(device_type).max_memory_allocated())
    if sys.platform == "linux":
        num_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return num_pages * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes, the peak so far


def _overload(line: StepLine) -> dict[str, float] | None:
    found = None if line.load is None else line.load.overload
    return None if found is None else asdict(found)


def _check(phases_s: Mapping[str, float]) -> None:
    assert tuple(phases_s) == PHASES, f"phases {tuple(phases_s)}, expected {PHASES}"


def _scalars(line: StepLine) -> dict[str, Any]:
    scalars = {
        "loss/train": line.loss,
        "learning_rate": line.learning_rate,
        "grad_norm": line.grad_norm,
        "throughput/tokens_per_s": line.tokens_per_s,
        "throughput/mfu": line.mfu,
        "throughput/utilization": utilization(line.phases_s),
        "throughput/communication_share": communication_share(line.phases_s),
        "dropped_tokens": line.dropped_tokens,
    }
    if line.validation_loss is not None:
        scalars["loss/validation"] = line.validation_loss
    if line.load is not None and line.load.balance is not None:
        scalars["experts/balance"] = line.load.balance
    scalars |= {f"experts/overload_{name}": value for name, value in (_overload(line) or {}).items()}
    return scalars | {f"phases_s/{name}": seconds for name, seconds in line.phases_s.items()}


def _open_events(run_folder: Path, first_step: int) -> SummaryWriter:
    # Imported only where it is used: with TensorFlow installed beside it, it takes seconds.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_folder / EVENTS_NAME), purge_step=first_step)
