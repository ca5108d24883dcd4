"""Forecast of a run from first step to last: tokens, time, GPU-hours, money, checkpoints, failures."""

from dataclasses import dataclass

from planner.counts.parameters import model_parameters
from planner.plan.plan import Plan
from planner.prediction.predict import Prediction
from planner.prediction.training_time import CheckpointCosts
from planner.units import format_bytes

_DAY_S, _HOUR_S = 86_400, 3_600
_STATE_BYTES = {"fp32": 12, "bf16": 8}  # by dtype of the moments
# Assumptions; printed wherever a number follows from them.
WRITE_BYTES_PER_S = 1e9  # of one host to the shared file system, all hosts at once; reading takes as long
COPY_BYTES_PER_S = 5e9  # of one rank into the host's memory, all ranks at once
RESTART_S = 300.0  # from a failure to ranks that have joined again, without reading the checkpoint


@dataclass(frozen=True, kw_only=True)
class FailureForecast:
    """What failures and checkpoints leave of a run. interval_s: training between two checkpoints."""

    costs: CheckpointCosts
    interval_s: float
    ratio: float
    best_interval_steps: int
    best_ratio: float


@dataclass(frozen=True, kw_only=True)
class RunForecast:
    """The run from its first step to its last, at the expected rate, without checkpoints and failures.

    checkpoint_s: until one is written. stall_s: of these, training waits. checkpoint_share: of the time in
    which a run without failures trains and waits for checkpoints.

    None: epochs, if the data are not known; cost, without cluster.cost; failures, without cluster.mtbf.
    """

    steps: int
    tokens: int
    epochs: float | None
    seconds: float
    gpu_hours: float
    cost: float | None
    checkpoint_bytes: int
    checkpoint_s: float
    stall_s: float
    checkpoint_share: float
    failures: FailureForecast | None

    @property
    def days(self) -> float:
        return self.seconds / _DAY_S


def forecast_run(plan: Plan, prediction: Prediction, data_tokens: int | None = None) -> RunForecast:
    """`data_tokens`: tokens of the data, where they are known."""
    steps, price = plan.strategy.training.steps, plan.strategy.cluster.cost
    tokens, seconds = steps * prediction.tokens_per_step, steps * prediction.step_s
    gpu_hours = seconds / _HOUR_S * plan.world_size
    num_bytes = checkpoint_bytes(plan)
    checkpoint_s = num_bytes / (WRITE_BYTES_PER_S * len(plan.hosts))
    stall_s = num_bytes / (COPY_BYTES_PER_S * plan.world_size)
    if not plan.strategy.output.async_save:
        stall_s = checkpoint_s
    interval_s = min(plan.strategy.output.checkpoint_every, steps) * prediction.step_s
    return RunForecast(
        steps=steps,
        tokens=tokens,
        epochs=tokens / data_tokens if data_tokens else None,
        seconds=seconds,
        gpu_hours=gpu_hours,
        cost=None if price is None else price * gpu_hours,
        checkpoint_bytes=num_bytes,
        checkpoint_s=checkpoint_s,
        stall_s=stall_s,
        checkpoint_share=stall_s / (stall_s + interval_s),
        failures=_failures(plan, prediction.step_s, interval_s, stall_s=stall_s, write_s=checkpoint_s),
    )


def checkpoint_bytes(plan: Plan) -> int:
    """Of one checkpoint: fp32 weights and both moments of every parameter."""
    each = _STATE_BYTES[plan.strategy.training.optimizer.moments]
    return each * model_parameters(plan.strategy.model).total


def _failures(
    plan: Plan, step_s: float, interval_s: float, *, stall_s: float, write_s: float
) -> FailureForecast | None:
    mtbf_s = plan.strategy.cluster.mtbf
    if mtbf_s is None:
        return None
    costs = CheckpointCosts(
        stall_s=stall_s,
        write_s=write_s,
        recovery_s=RESTART_S + write_s,
        mtbf_s=mtbf_s / plan.world_size,
    )
    steps = max(1, round(costs.best_interval_s / step_s))
    return FailureForecast(
        costs=costs,
        interval_s=interval_s,
        ratio=costs.training_time_ratio(interval_s),
        best_interval_steps=steps,
        best_ratio=costs.training_time_ratio(steps * step_s),
    )


def run_assumptions(plan: Plan, run: RunForecast) -> tuple[str, ...]:
    """What the forecast takes for granted, as lines."""
    waits = "steps wait for them"
    if plan.strategy.output.async_save:
        a_host = run.checkpoint_bytes / plan.world_size * len(plan.hosts[0].ranks)
        waits = (
            f"steps wait for a copy of {format_bytes(a_host)} in each host's memory, at "
            f"{COPY_BYTES_PER_S / 1e9:g} GB/s a rank"
        )
    lines = [
        f"checkpoints: {WRITE_BYTES_PER_S / 1e9:g} GB/s a host to the shared file system, by "
        f"{len(plan.hosts)} host{'s' if len(plan.hosts) > 1 else ''} at once; {waits}"
    ]
    if run.failures is not None:
        lines.append(
            f"failures: cluster.mtbf divided by the ranks in use; {RESTART_S / 60:g} min to restart, then "
            "the checkpoint is read as fast as it is written"
        )
    return tuple(lines)
