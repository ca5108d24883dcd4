"""The command `preflight` as the command line reads it; what it does is loaded when it is asked for.

Every command pays for what is imported here, and `plan` answers in a fraction of a second.
"""

from typing import Annotated

import typer

from launch.cli.options import AsJson, Overrides, Plain, StrategyFile, Work


def preflight(
    strategy: StrategyFile,
    overrides: Overrides = None,
    is_json: AsJson = False,
    is_plain: Plain = False,
    is_hosts_only: Annotated[
        bool, typer.Option("--hosts-only", help="ask the hosts, start no ranks")
    ] = False,
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware",
            metavar="FILE",
            help="where measured links are written [default: hardware.yaml in output.folder]",
            show_default=False,
        ),
    ] = None,
) -> Work:
    """Are the hosts and links as the strategy says: asks every host, then runs the plan's own exchanges."""

    def work() -> int:
        from launch.preflight.run import answer

        return answer(
            strategy,
            overrides or (),
            hardware,
            is_json=is_json,
            is_plain=is_plain,
            is_hosts_only=is_hosts_only,
        )

    return work
