"""Checkpoint interval of a new strategy: the usual one, or a longer one where saves would take the time."""

from planner import Strategy, build_plan
from planner.hardware.catalog import Device
from planner.strategy.changes import change_keys

MOST = 0.05  # of the time that saves may take
_INTERVALS = tuple(digit * 10**power for power in range(2, 7) for digit in (1, 2, 5))
_KEY = "output.checkpoint_every"


def with_checkpoint_interval(strategy: Strategy, device: Device) -> tuple[Strategy, dict[str, str]]:
    """The strategy with the shortest round interval whose saves take up to MOST of the time, not longer than
    the training, and a note for its key where that is not the default."""
    from planner.prediction.predict import predict
    from planner.prediction.run_forecast import forecast_run

    plan = build_plan(strategy)
    prediction = predict(plan, device)
    usual, steps = strategy.output.checkpoint_every, strategy.training.steps
    share = forecast_run(plan, prediction).checkpoint_share
    if share <= MOST or steps <= usual:
        return strategy, {}
    # share = stall / (stall + interval): a stall is as long whatever the interval.
    stall_s = share / (1 - share) * usual * prediction.step_s
    wanted = stall_s * (1 - MOST) / MOST / prediction.step_s
    chosen = next((each for each in _INTERVALS if each >= wanted), _INTERVALS[-1])
    changed = change_keys(strategy, {_KEY: min(chosen, steps)})
    found = forecast_run(build_plan(changed), prediction).checkpoint_share
    note = f"saves take {found:.0%} of the time; every {usual} steps they would take {share:.0%}"
    return changed, {_KEY: note}
