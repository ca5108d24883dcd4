"""The `fallback` command: scaling questions as one table, or the layouts to run after a loss of hosts."""

from typing import Annotated

import typer

from launch.cli.arguments import only_overrides
from launch.cli.command import command
from launch.cli.options import HardwareFile, Overrides, StrategyFile
from launch.cli.output import CommandOutput
from launch.commands.prediction import device_for
from planner import Problem, StrategyError, load
from planner.exit_codes import ExitCode
from planner.hardware.catalog import Device
from planner.strategy.schema import Strategy
from planner.units import plural

_ROWS = 12


@command
def fallback(
    output: CommandOutput,
    strategy: StrategyFile,
    overrides: Overrides = None,
    lost_hosts: Annotated[
        int | None, typer.Option("--lost-hosts", metavar="N", help="number of lost hosts", min=1)
    ] = None,
    lost_gpus: Annotated[
        int | None, typer.Option("--lost-gpus", metavar="N", help="number of lost GPUs", min=1)
    ] = None,
    num_rows: Annotated[int, typer.Option("--rows", help="layouts to show", min=1)] = _ROWS,
    hardware: HardwareFile = None,
) -> ExitCode:
    """Answer scaling questions; after a loss: does this layout continue, and what else runs on the rest."""
    changes = only_overrides(overrides)
    if lost_hosts is not None and lost_gpus is not None:
        raise StrategyError([_two_losses()])
    given = load(strategy, changes, hardware=hardware)
    device = device_for(given, hardware)
    if lost_hosts is None and lost_gpus is None:
        return _answer_questions(output, given, device)
    return _answer_loss(output, given, device, lost_hosts or 0, lost_gpus or 0, num_rows)


def _answer_questions(output: CommandOutput, given: Strategy, device: Device) -> ExitCode:
    from planner.plan.memory_limit import describe_memory_limit
    from planner.report.fallback_report import option_dict, scaling_table, untrainable_notes
    from planner.search.fallback import scaling_options

    options = scaling_options(given, device)
    if output.is_json:
        answer = {"memory_limit": describe_memory_limit(given)}
        return output.print_json(ExitCode.OK, answer | {"options": [option_dict(each) for each in options]})
    cluster = given.cluster
    heading = (
        f"{given.name}: {given.parallel.layout_name}, {given.parallel.placement}",
        f"{plural(sum(cluster.slots), 'GPU')} on {plural(cluster.hosts.count, 'host')}, including spares",
        f"memory of a rank: at most {describe_memory_limit(given)}",
    )
    notes = untrainable_notes(key for option in options for key in option.untrainable)
    output.print_tables(heading, (scaling_table(options),), notes)
    return ExitCode.OK


def _answer_loss(
    output: CommandOutput, given: Strategy, device: Device, lost_hosts: int, lost_gpus: int, num_rows: int
) -> ExitCode:
    from planner.report.fallback_report import (
        continuation_table,
        loss_dict,
        loss_lines,
        loss_table,
        missing_keys,
        untrainable_notes,
    )
    from planner.search.fallback import after_loss

    left = after_loss(given, lost_hosts=lost_hosts, lost_gpus=lost_gpus, device=device)
    code = ExitCode.OK if left.rows else ExitCode.NEGATIVE
    if output.is_json:
        return output.print_json(code, loss_dict(left, num_rows))
    tables = (continuation_table(left), *((loss_table(left, num_rows),) if left.rows else ()))
    notes = () if left.rows else ("no legal layout fits the remaining GPUs",)
    untrainable = untrainable_notes(missing_keys(left, num_rows))
    output.print_tables(loss_lines(left), tables, (*notes, *untrainable))
    return code


def _two_losses() -> Problem:
    return Problem(
        code="SW485",
        found="both --lost-hosts and --lost-gpus",
        expected="one of them",
        fix="count the GPUs of the lost hosts in --lost-gpus, or remove one option",
    )
