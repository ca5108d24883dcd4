"""Forecast of a run from its first step to its last: tokens, epochs, days, GPU-hours, checkpoint size."""

from dataclasses import dataclass

from planner.counts.parameters import model_parameters
from planner.plan.plan import Plan
from planner.prediction.predict import Prediction

_DAY_S, _HOUR_S = 86_400, 3_600
STATE_BYTES = 12  # of a parameter in a checkpoint: fp32 weights and two moments


@dataclass(frozen=True, kw_only=True)
class RunForecast:
    """The run from its first step to its last, at the expected rate. epochs: None: the data are not known."""

    tokens: int
    epochs: float | None
    days: float
    gpu_hours: float
    checkpoint_bytes: int


def forecast_run(plan: Plan, prediction: Prediction, data_tokens: int | None = None) -> RunForecast:
    """`data_tokens`: tokens of the data, where they are known."""
    steps = plan.strategy.training.steps
    tokens = steps * prediction.tokens_per_step
    seconds = steps * prediction.step_s
    return RunForecast(
        tokens=tokens,
        epochs=tokens / data_tokens if data_tokens else None,
        days=seconds / _DAY_S,
        gpu_hours=seconds / _HOUR_S * plan.world_size,
        checkpoint_bytes=STATE_BYTES * model_parameters(plan.strategy.model).total,
    )
