"""The `fallback` command: the scaling questions as one table, or what to run on what a loss leaves."""

import sys
from typing import Annotated

import typer

from launch.cli.arguments import refuse_second
from launch.cli.options import AsJson, Overrides, Plain, StrategyFile, Work
from launch.cli.output import NO, YES, is_terminal, print_json
from launch.commands.prediction import device_for
from planner import Problem, StrategyError, load

_ROWS = 12


def fallback(
    strategy: StrategyFile,
    overrides: Overrides = None,
    lost_hosts: Annotated[
        int | None, typer.Option("--lost-hosts", metavar="N", help="hosts that are gone", min=1)
    ] = None,
    lost_gpus: Annotated[
        int | None, typer.Option("--lost-gpus", metavar="N", help="GPUs that are gone", min=1)
    ] = None,
    num_rows: Annotated[int, typer.Option("--rows", help="how many layouts to show", min=1)] = _ROWS,
    is_json: AsJson = False,
    is_plain: Plain = False,
) -> Work:
    """The scaling questions and fallbacks; with a loss, what to run on what is left (1: nothing)."""

    def work() -> int:
        refuse_second(overrides or ())
        if lost_hosts is not None and lost_gpus is not None:
            raise StrategyError([_two_losses()])
        plainly = is_plain or not is_terminal(sys.stdout)
        if lost_hosts is None and lost_gpus is None:
            return _answer_questions(strategy, overrides or [], is_json, plainly)
        return _answer_loss(
            strategy, overrides or [], lost_hosts or 0, lost_gpus or 0, num_rows, is_json, plainly
        )

    return work


def _answer_questions(strategy: str, overrides: list[str], is_json: bool, is_plain: bool) -> int:
    from planner.report.fallback_report import option_dict, scaling_table
    from planner.report.plan_report import print_tables
    from planner.search.fallback import scaling_options

    given = load(strategy, overrides)
    options = scaling_options(given, device_for(given, None))
    if is_json:
        print_json("fallback", YES, {"options": [option_dict(option) for option in options]})
        return YES
    cluster = given.cluster
    heading = (
        f"{given.name}: {given.parallel.short_name}, {given.parallel.placement}",
        f"{sum(cluster.slots)} GPUs on {cluster.hosts.count} hosts, spare ones included",
    )
    print_tables(heading, (scaling_table(options),), (), sys.stdout, is_plain=is_plain)
    return YES


def _answer_loss(
    strategy: str,
    overrides: list[str],
    lost_hosts: int,
    lost_gpus: int,
    num_rows: int,
    is_json: bool,
    is_plain: bool,
) -> int:
    from planner.report.fallback_report import loss_dict, loss_lines, loss_table
    from planner.report.plan_report import print_tables
    from planner.search.fallback import after_loss

    given = load(strategy, overrides)
    left = after_loss(given, lost_hosts=lost_hosts, lost_gpus=lost_gpus, device=device_for(given, None))
    code = YES if left.rows else NO
    if is_json:
        print_json("fallback", code, loss_dict(left, num_rows))
        return code
    tables = (loss_table(left, num_rows),) if left.rows else ()
    notes = () if left.rows else ("no legal layout fits what is left",)
    print_tables(loss_lines(left), tables, notes, sys.stdout, is_plain=is_plain)
    return code


def _two_losses() -> Problem:
    return Problem(
        path=None,
        line=None,
        found="both --lost-hosts and --lost-gpus are given",
        expected="one of them",
        fix="give the GPUs of the lost hosts with --lost-gpus too, or leave one out",
    )
