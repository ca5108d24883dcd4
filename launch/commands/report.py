"""The `report` command: runs as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.command import command
from launch.cli.output import CommandOutput
from planner import Problem, StrategyError
from planner.exit_codes import ExitCode

REPORT_NAME = "report.html"


@command
def report(
    output: CommandOutput,
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN [RUN …]", help="folders of runs, or their names in runs/")
    ],
    file: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="where to write it [default: RUN/report.html]",
            show_default=False,
        ),
    ] = None,
) -> ExitCode:
    """Write one HTML page about a run, or about several compared; it needs no network and no other file."""
    from launch.run_folder.description import find_run
    from launch.run_report.page import report_page
    from planner.files import replace

    folders = [find_run(run) for run in runs]
    path = Path(file) if file is not None else folders[0] / REPORT_NAME
    content = report_page(folders).encode()
    try:
        replace(path, content)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        problem = Problem(
            code="SW462",
            found=f"{path} cannot be written: {reason}",
            expected="a file in a writable folder",
            fix="name another one with --output FILE",
        )
        raise StrategyError([problem]) from None
    if output.is_json:
        return output.print_json(ExitCode.OK, {"file": str(path), "bytes": len(content)})
    print(f"written: {path} ({len(content):,} bytes)")
    return ExitCode.OK
