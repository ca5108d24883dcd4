"""The `generate` command: the files of a launch, in the run folder."""

import json
import os
import sys
from enum import Enum
from typing import Annotated, Any

import typer

from launch.cli.arguments import only_overrides
from launch.cli.command import command
from launch.cli.options import HardwareFile, Overrides, StrategyFile
from launch.cli.output import CommandOutput
from planner import Plan, StrategyError, load, locate_problems
from planner.exit_codes import ExitCode


class Target(str, Enum):
    """What starts the ranks."""

    DEEPSPEED = "deepspeed"
    TORCHRUN = "torchrun"
    SLURM = "slurm"
    MPI = "mpi"
    KUBERNETES = "kubernetes"


@command
def generate(
    output: CommandOutput,
    strategy: StrategyFile,
    overrides: Overrides = None,
    hardware: HardwareFile = None,
    targets: Annotated[
        list[Target] | None,
        typer.Option(
            "--for", help="what starts the ranks; may be given several times; default: launch.launcher"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="replace the files of a finished or running run")
    ] = False,
) -> ExitCode:
    """Write the files of a launch to the run folder; exit code 1 if the plan is not predicted to fit."""
    from launch.scripts.env_file import operator_environment
    from launch.scripts.held_run import find_held_run, keep_replaced
    from launch.scripts.hostfile import has_placeholder_hosts, is_local
    from launch.scripts.launch_files import (
        build_launch_plan,
        cannot_write,
        default_targets,
        launch_files,
        launch_paths,
        write_together,
    )
    from launch.scripts.start_lines import start_lines
    from planner.memory.fit import memory_warning
    from planner.plan.notes import list_notes

    plan = build_launch_plan(load(strategy, only_overrides(overrides), hardware=hardware))
    paths = launch_paths(plan)
    try:
        chosen = tuple(target.value for target in targets or ()) or default_targets(plan)
        files = launch_files(plan, paths, os.environ, chosen)
    except StrategyError as error:
        raise StrategyError(locate_problems(error.problems, plan.strategy)) from None
    held = find_held_run(paths.run, plan, json.loads(files["plan.json"])["environment"])
    if held is not None and not force:
        raise StrategyError(locate_problems([held], plan.strategy))
    try:
        kept = None if held is None else keep_replaced(paths.run, files)
        write_together(paths.run, files)
    except OSError as error:
        problem = cannot_write(paths.run, error)
        raise StrategyError(locate_problems([problem], plan.strategy)) from error
    too_large = memory_warning(plan, operator_environment(plan, os.environ).memory_limit_bytes)
    code = ExitCode.NEGATIVE if too_large else ExitCode.OK
    has_names = not has_placeholder_hosts(plan) or is_local(plan)
    answer: dict[str, Any] = {
        "folder": str(paths.run),
        "fingerprint": plan.fingerprint,
        "files": list(files),
        "replaced": None if kept is None else str(kept),
        "start": str(paths.run / "launch.sh") if has_names and "deepspeed" in chosen else None,
        "start_lines": start_lines(plan, paths, chosen),
        "notes": list(list_notes(plan)),
        "fits": not too_large,
        "warnings": [too_large] if too_large else [],
    }
    if output.is_json:
        return output.print_json(code, answer)
    _print(plan, answer)
    return code


def _print(plan: Plan, answer: dict[str, Any]) -> None:
    print(f"plan {plan.fingerprint} in {answer['folder']}: {' '.join(answer['files'])}")
    if answer["replaced"] is not None:
        print(f"  the files of the other plan are kept in {answer['replaced']}")
    if "launch.sh" in answer["files"] and answer["start"] is None:
        print(
            f"  placeholder host names ({plan.hosts[0].name} …): list the real ones under cluster.hosts "
            "to use launch.sh"
        )
    for title, lines in answer["start_lines"].items():
        for line in lines:
            print(f"  {title}: {line}")
    for note in answer["notes"]:
        print(f"note: {note}")
    for warning in answer["warnings"]:
        print(f"\nDOES NOT FIT\nwarning: {warning}", file=sys.stderr)
