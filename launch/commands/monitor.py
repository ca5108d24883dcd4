"""The `monitor` command: what a run does now, on a terminal, as JSON, or as metrics for Prometheus."""

import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.command import command
from launch.cli.output import CommandOutput
from planner import Problem, StrategyError
from planner.exit_codes import ExitCode

if TYPE_CHECKING:
    from launch.monitor.snapshot import Snapshot
    from launch.monitor.watch import RunWatch

# Of a run whose processes are not on this host: heartbeats are written every second.
_SIGN_OF_LIFE_S = 2.5


@command
def monitor(
    output: CommandOutput,
    run: Annotated[str, typer.Argument(metavar="RUN", help="folder of the run, or its name in runs/")],
    once: Annotated[bool, typer.Option("--once", help="print one frame and end")] = False,
    metrics: Annotated[
        int | None,
        typer.Option(
            "--metrics",
            metavar="PORT",
            min=1,
            max=65535,
            help="serve OpenMetrics on this port of 127.0.0.1 [default: operate.metrics_port]",
            show_default=False,
        ),
    ] = None,
) -> ExitCode:
    """Watch a run of this or another machine, by its folder; exit code 1 where something needs a look."""
    from launch.monitor.live import show_live
    from launch.monitor.openmetrics import metrics_server
    from launch.monitor.view import is_healthy
    from launch.monitor.watch import RunWatch
    from launch.run_folder.description import find_run

    if metrics is not None and (once or output.is_json):
        raise StrategyError([_two_ways("--once" if once else "--json")])
    folder = find_run(run)
    watch = RunWatch(folder)
    is_live = not (once or output.is_json or output.is_plain)
    first = watch.look()
    port = metrics
    if port is None and first.run.strategy is not None and not (once or output.is_json):
        port = first.run.strategy.operate.metrics_port
    with ExitStack() as stack:
        if port is not None:
            address = stack.enter_context(metrics_server(folder, port))
            print(f"serving {address}", file=sys.stderr, flush=True)
        if is_live:
            last = show_live(watch.look)
        else:
            last = _settled(watch, first)
            _print(output, last)
            if port is not None:
                threading.Event().wait()  # serves until it is interrupted
    if is_live:
        _print(output, last)  # on the terminal's own screen, where it stays
    return ExitCode.OK if is_healthy(last) else ExitCode.NEGATIVE


def _two_ways(option: str) -> Problem:
    return Problem(
        code="SW463",
        found=f"--metrics serves until it is interrupted, and {option} ends at once",
        expected="one of the two",
        fix=f"leave {option} out",
    )


def _settled(watch: "RunWatch", first: "Snapshot") -> "Snapshot":
    """A second look, where the first could not tell whether the run lives."""
    from launch.monitor.snapshot import State

    if first.state is not State.SILENT:
        return first
    time.sleep(_SIGN_OF_LIFE_S)
    return watch.look()


def _print(output: CommandOutput, snapshot: "Snapshot") -> None:
    from launch.monitor.view import heading, is_healthy, snapshot_dict, tables

    if output.is_json:
        code = ExitCode.OK if is_healthy(snapshot) else ExitCode.NEGATIVE
        output.print_json(code, snapshot_dict(snapshot))
    else:
        output.print_tables(heading(snapshot), tables(snapshot), snapshot.notes)
