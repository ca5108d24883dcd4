"""The `ledger` command: predicted beside measured, over the runs of a folder."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.command import command
from launch.cli.output import CommandOutput
from planner import Problem, StrategyError
from planner.exit_codes import ExitCode

if TYPE_CHECKING:
    from planner.report.ledger import LedgerEntry

_GOOD_ERROR = 0.15


@command
def ledger(
    output: CommandOutput,
    runs: Annotated[
        list[str] | None, typer.Argument(help="names of runs [default: all]", show_default=False)
    ] = None,
    folder: Annotated[str, typer.Option("--folder", help="folder of the runs")] = "runs",
) -> ExitCode:
    """Compare predicted with measured steps of finished runs; exit code 1 if there are none."""
    from planner.report.ledger import ledger_tables, misplaced_telemetry, read_ledger

    _refuse_unknown_runs(Path(folder), runs or ())
    for path in misplaced_telemetry(Path(folder)):
        print(f"warning: {path} is not a file: this run is left out; move it aside", file=sys.stderr)
    entries = read_ledger(Path(folder), runs or ())
    code = ExitCode.OK if entries else ExitCode.NEGATIVE
    if output.is_json:
        return output.print_json(code, {"runs": [_entry_dict(entry) for entry in entries]})
    if not entries:
        print(f"no run in {folder} has steps with a prediction yet", file=sys.stderr)
        return code
    errors = [abs(entry.error("step_s") or 0.0) for entry in entries]
    within = sum(error <= _GOOD_ERROR for error in errors)
    output.print_tables(
        (f"{len(entries)} runs in {folder}; step time of {within} predicted within {_GOOD_ERROR:.0%}",),
        ledger_tables(entries),
        ("medians over the steps of a run, without the first five of each attempt",),
    )
    return code


def _entry_dict(entry: "LedgerEntry") -> dict[str, Any]:
    return {
        "run": entry.run,
        "layout": entry.layout,
        "gpu": entry.gpu,
        "steps": entry.num_steps,
        "predicted": dict(entry.predicted),
        "measured": dict(entry.measured),
        "error": {name: entry.error(name) for name in entry.measured},
    }


def _refuse_unknown_runs(folder: Path, runs: Sequence[str]) -> None:
    problems = [
        Problem(
            code="SW490",
            found=f"no telemetry.jsonl in {folder / run}",
            expected=f"the name of a run in {folder}",
            fix="correct the name, or name the folder of the runs with --folder",
        )
        for run in runs
        if not (folder / run / "telemetry.jsonl").is_file()
    ]
    if problems:
        raise StrategyError(problems)
