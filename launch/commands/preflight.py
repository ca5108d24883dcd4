"""The `preflight` command: hosts, GPUs and links checked against the strategy."""

from typing import Annotated

import typer

from launch.cli.arguments import only_overrides
from launch.cli.command import command
from launch.cli.options import Overrides, StrategyFile
from launch.cli.output import CommandOutput
from planner.exit_codes import ExitCode


@command
def preflight(
    output: CommandOutput,
    strategy: StrategyFile,
    overrides: Overrides = None,
    is_hosts_only: Annotated[
        bool, typer.Option("--hosts-only", help="check the hosts only, start no ranks")
    ] = False,
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware",
            metavar="FILE",
            help="devices and links of one's own, and where to write measured links "
            "[default: hardware.yaml in output.folder]",
            show_default=False,
        ),
    ] = None,
) -> ExitCode:
    """Check hosts, GPUs and links, then time the plan's own exchanges; exit code 1 if a check fails."""
    from launch.preflight.run import check_cluster

    return check_cluster(output, strategy, only_overrides(overrides), hardware, is_hosts_only=is_hosts_only)
