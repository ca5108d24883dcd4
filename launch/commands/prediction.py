"""The commands that look ahead and back: the prediction in `plan`, and `ledger`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from launch.cli.options import AsJson, Plain, Work
from launch.cli.output import NO, YES, is_terminal, print_json
from planner import Plan, Problem, StrategyError
from planner.counts.rank_workload import Load
from planner.hardware.catalog import Device, calibration_path, device_of
from planner.strategy.schema import Strategy


def device_for(strategy: Strategy, hardware: str | None) -> Device:
    """The device of a strategy: of the file given, else of a calibration beside the runs, else as shipped."""
    if hardware is not None:
        return device_of(strategy.cluster.gpu, Path(hardware))
    return device_of(strategy.cluster.gpu, calibration_path(strategy.output.folder))


def prediction_answer(built: Plan, hardware: str | None, load: Load) -> dict[str, Any]:
    """The prediction of a plan for --json."""
    from planner.report.prediction_report import prediction_dict

    prediction, run, checks, bar = foresee(built, hardware, load)
    return prediction_dict(built, prediction, run, checks, bar)


def print_prediction(built: Plan, foreseen: Any, *, is_plain: bool) -> None:
    """What `foresee` found, below the plan's tables."""
    from planner.report.plan_report import print_tables
    from planner.report.prediction_report import (
        cause_table,
        forecast_lines,
        limit_notes,
        limit_table,
        phase_table,
    )

    prediction, run, checks, bar = foreseen
    print()
    print_tables(
        ("Prediction", *(f"  {line}" for line in forecast_lines(built, prediction, run, bar))),
        (phase_table(prediction), cause_table(built, prediction), limit_table(checks)),
        (*limit_notes(checks), *(f"assumed: {line}" for line in prediction.assumptions)),
        sys.stdout,
        is_plain=is_plain,
    )


def foresee(built: Plan, hardware: str | None, load: Load) -> Any:
    """The prediction of a plan, its whole run, its limits, and the error bar of such predictions so far."""
    from planner.prediction.limits import limit_checks, whole_run
    from planner.prediction.predict import predict
    from planner.report.ledger import error_bar, read_ledger

    prediction = predict(built, device_for(built.strategy, hardware), load=load)
    bar = error_bar(read_ledger(Path(built.strategy.output.folder)), built.strategy)
    return prediction, whole_run(built, prediction), limit_checks(built, prediction), bar


def _refuse_unknown_runs(folder: Path, runs: Sequence[str]) -> None:
    problems = [
        Problem(
            path=None,
            line=None,
            found=f"{folder / run}: it has no telemetry.jsonl",
            expected=f"the name of a run in {folder}",
            fix="correct the name, or give the folder of the runs with --folder",
        )
        for run in runs
        if not (folder / run / "telemetry.jsonl").is_file()
    ]
    if problems:
        raise StrategyError(problems)


def ledger(
    runs: Annotated[
        list[str] | None, typer.Argument(help="runs by name; none: all", show_default=False)
    ] = None,
    folder: Annotated[str, typer.Option("--folder", help="the folder of the runs")] = "runs",
    is_json: AsJson = False,
    is_plain: Plain = False,
) -> Work:
    """Predicted beside measured, over all runs of a folder."""

    def work() -> int:
        from planner.report.ledger import ledger_tables, read_ledger
        from planner.report.plan_report import print_tables

        _refuse_unknown_runs(Path(folder), runs or ())
        entries = read_ledger(Path(folder), runs or ())
        if is_json:
            content = [
                {
                    "run": entry.run,
                    "layout": entry.layout,
                    "gpu": entry.gpu,
                    "steps": entry.num_steps,
                    "predicted": dict(entry.predicted),
                    "measured": dict(entry.measured),
                    "error": {name: entry.error(name) for name in entry.measured},
                }
                for entry in entries
            ]
            print_json("ledger", YES if entries else NO, {"runs": content})
        elif not entries:
            print(f"no run under {folder} has steps with a prediction yet", file=sys.stderr)
        else:
            errors = [abs(entry.error("step_s") or 0.0) for entry in entries]
            within = sum(error <= 0.15 for error in errors)
            print_tables(
                (f"{len(entries)} runs under {folder}; {within} predicted within 15 % of the step",),
                ledger_tables(entries),
                ("medians over the steps of a run, the first five of each attempt left out",),
                sys.stdout,
                is_plain=is_plain or not is_terminal(sys.stdout),
            )
        return YES if entries else NO

    return work
