"""Prediction of a plan: step time, the run, limits, and the error bar of earlier predictions."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.cli.output import CommandOutput
from planner import Plan, Problem, StrategyError
from planner.counts.rank_workload import BALANCED, ExpertImbalance
from planner.hardware.catalog import Device, calibration_path, device_of
from planner.strategy.schema import Strategy

if TYPE_CHECKING:
    from planner.prediction.limits import LimitCheck
    from planner.prediction.predict import Prediction
    from planner.prediction.run_forecast import RunForecast
    from planner.prediction.sensitivity import Variation
    from planner.report.ledger import ErrorBar


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A prediction with what follows from it; `error_bar` is None where no run was measured yet."""

    prediction: "Prediction"
    run: "RunForecast"
    limits: "tuple[LimitCheck, ...]"
    error_bar: "ErrorBar | None"
    variations: "tuple[Variation, ...]"


def device_for(strategy: Strategy, hardware: str | None) -> Device:
    """The device of a strategy: from the given file, else a calibration in output.folder, else as shipped."""
    if hardware is not None:
        return device_of(strategy.cluster.gpu, Path(hardware))
    return device_of(strategy.cluster.gpu, calibration_path(strategy.output.folder))


def forecast(plan: Plan, hardware: str | None, imbalance: ExpertImbalance) -> Forecast:
    """Predicts a plan.

    Raises:
        StrategyError: if the hardware file is wrong, or runtime.force_routing contradicts the imbalance.
    """
    from planner.prediction.limits import limit_checks
    from planner.prediction.predict import predict
    from planner.prediction.run_forecast import forecast_run
    from planner.prediction.sensitivity import sensitivity
    from planner.report.ledger import error_bar, read_ledger

    if plan.strategy.runtime.force_routing is not None and imbalance != BALANCED:
        raise StrategyError([_two_loads(plan.strategy, imbalance)])
    prediction = predict(plan, device_for(plan.strategy, hardware), imbalance=imbalance)
    return Forecast(
        prediction=prediction,
        run=forecast_run(plan, prediction),
        limits=limit_checks(plan, prediction),
        error_bar=error_bar(read_ledger(Path(plan.strategy.output.folder)), plan.strategy),
        variations=sensitivity(plan, prediction),
    )


def forecast_dict(plan: Plan, found: Forecast) -> dict[str, Any]:
    """For --json."""
    from planner.report.key_figures import sensitivity_dict
    from planner.report.prediction_report import prediction_dict

    content = prediction_dict(plan, found.prediction, found.run, found.limits, found.error_bar)
    return content | {"sensitivity": sensitivity_dict(found.variations)}


def figure_lines(plan: Plan, found: Forecast) -> tuple[str, ...]:
    """What people ask first, for the top of the plan."""
    from planner.report.key_figures import key_figure_lines

    return key_figure_lines(plan, found.prediction, found.run)


def print_forecast(output: CommandOutput, plan: Plan, found: Forecast) -> None:
    """Below the plan's tables."""
    from planner.prediction.run_forecast import run_assumptions
    from planner.report.key_figures import sensitivity_table
    from planner.report.prediction_report import (
        cause_table,
        forecast_lines,
        limit_notes,
        limit_table,
        phase_table,
    )

    lines = forecast_lines(plan, found.prediction, found.error_bar)
    assumed = (*found.prediction.assumptions, *run_assumptions(plan, found.run))
    print()
    output.print_tables(
        ("Prediction", *(f"  {line}" for line in lines)),
        (
            phase_table(found.prediction),
            cause_table(plan, found.prediction),
            limit_table(found.limits),
            sensitivity_table(plan, found.prediction, found.variations),
        ),
        (*limit_notes(found.limits), *(f"assumed: {line}" for line in assumed)),
    )


def _two_loads(strategy: Strategy, imbalance: ExpertImbalance) -> Problem:
    return Problem(
        code="SW495",
        path="runtime.force_routing",
        found=f"{strategy.runtime.force_routing} with --balance {imbalance.balance:g}: the load is counted "
        "from the first",
        expected="one of the two",
        fix="leave --balance out, or set runtime.force_routing to none",
    )
