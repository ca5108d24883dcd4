"""The `cordon` command: hosts that no supervised run may use."""

from typing import Annotated

import typer

from launch.cli.arguments import only_overrides
from launch.cli.command import command
from launch.cli.options import StrategyFile
from launch.cli.output import CommandOutput
from planner import Problem, StrategyError, load
from planner.exit_codes import ExitCode


@command
def cordon(
    output: CommandOutput,
    strategy: StrategyFile,
    hosts: Annotated[
        list[str] | None, typer.Argument(metavar="HOST …", help="names as in cluster.hosts")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="let runs use these hosts again")] = False,
) -> ExitCode:
    """Take hosts out of supervised runs in output.folder: a run that uses one saves and moves to a spare."""
    from launch.scripts.launch_files import build_launch_plan, launch_paths
    from launch.supervisor.cordon import read_cordoned, write_cordoned

    plan = build_launch_plan(load(strategy, only_overrides(None)))
    folder = launch_paths(plan).run.parent
    known = plan.strategy.cluster.hosts.names
    named = tuple(hosts or ())
    if unknown := [name for name in named if name not in known]:
        raise StrategyError([_unknown(unknown, known)])
    before = read_cordoned(folder)
    after = tuple(name for name in before if name not in named) if undo else (*before, *named)
    if named:
        write_cordoned(folder, after)
    now = sorted(set(after))
    if output.is_json:
        return output.print_json(ExitCode.OK, {"cordoned": now, "file": str(folder / "cordoned.json")})
    print(f"cordoned: {', '.join(now) if now else 'none'}")
    return ExitCode.OK


def _unknown(unknown: list[str], known: tuple[str, ...]) -> Problem:
    listed = ", ".join(known[:8]) + (" …" if len(known) > 8 else "")
    return Problem(
        code="SW454",
        path="cluster.hosts",
        found=f"{', '.join(unknown)}: no host of this strategy",
        expected=f"names of its hosts: {listed}",
        fix="correct the name",
    )
