"""Attempts of a run: `python -m runtime.attempts set-aside RUN` makes room for a fresh start.

The scripts of a launch call `record-failure` where the ranks left no reason.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from planner import Problem
from planner.exit_codes import ExitCode
from planner.run_holder import find_live_holder
from planner.standard_streams import run_program
from runtime.files.path_kind import wrong_kind
from runtime.startup.claims import set_aside
from runtime.startup.outcome_files import record_failure

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Attempts of a run.",
)


@app.callback()
def _attempts() -> None:
    """Attempts of a run."""


@app.command("set-aside")
def set_run_aside(run: Annotated[Path, typer.Argument(help="the folder of a run")]) -> None:
    """Move a run to RUN.001, RUN.002, …: the next start begins at step 1. Nothing is deleted."""
    try:
        if (found := wrong_kind(run, is_folder=True)) is not None:
            problem = Problem(
                code="SW646",
                file=str(run),
                found=f"it is {found}",
                expected="the folder of a run, such as runs/tiny_cpu",
                fix="correct the path, or move it aside by hand",
            )
            print(problem, file=sys.stderr)
            raise typer.Exit(ExitCode.WRONG_INPUT)
        if not run.exists():
            print(f"there is no {run}: nothing is in the way of a fresh start")
            return
        if (holder := find_live_holder(run)) is not None:
            problem = Problem(
                code="SW648",
                file=str(run),
                found=f"the run is being trained ({holder})",
                expected="a run that nobody trains",
                fix=f"stop it first: kill -TERM {holder.pid} on {holder.host} saves its last step",
            )
            print(problem, file=sys.stderr)
            raise typer.Exit(ExitCode.WRONG_INPUT)
        print(f"{run} was moved to {set_aside(run)}")
    except OSError as error:
        print(f"SW644 {run} cannot be moved: {error.strerror or error}", file=sys.stderr)
        raise typer.Exit(ExitCode.INTERNAL_ERROR) from error


@app.command("record-failure", hidden=True)
def record_launch_failure(
    run: Annotated[Path, typer.Argument(help="the folder of a run")],
    reason: Annotated[Path, typer.Argument(help="a Problem as JSON, if there is one")],
    launcher_code: Annotated[int, typer.Argument(help="the exit code of the launcher")],
) -> None:
    """Write failed.json for ranks that ended without it, and print the reason. Ends with 0 in any case.

    Where launch.sh has ended the ranks for a lost host, launch.launcher_output has shown the reason; where
    the disk took no more, the file is empty and the reason was shown too.
    """
    text = ""
    with contextlib.suppress(OSError):
        text = reason.read_text(encoding="utf-8")
    is_shown = reason.exists() and (not text or reason.with_name("guarded").exists())
    try:
        problem = Problem(**json.loads(text))
    except (ValueError, TypeError):
        found = "the ranks ended without a reason"
        if is_shown:
            found = "the ranks ended for a reason that was on the terminal only, as the disk took no more"
        problem = Problem(
            code="SW447",
            found=f"{found}; their launcher ended with exit code {launcher_code}",
            expected="ranks that run until the last step",
            fix="look into `dmesg` on the hosts (the OOM killer leaves a line there) and for whoever "
            "killed them (`scancel JOB.STEP` does so unsaved), then start the launch again: the run resumes "
            "from its last checkpoint",
        )
    try:
        if record_failure(run, problem, code=ExitCode.INTERNAL_ERROR) and not is_shown:
            print(problem, file=sys.stderr)
    except OSError as error:
        if not is_shown:
            print(problem, file=sys.stderr)
        print(f"{run}: failed.json could not be written: {error.strerror or error}", file=sys.stderr)


if __name__ == "__main__":
    run_program(lambda: app(prog_name="python -m runtime.attempts"))
