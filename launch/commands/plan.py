"""The `plan` command: stages, ranks, hosts, groups, batch, memory and time of one strategy or of two."""

import shlex
import sys
from typing import Annotated, Any

import typer

from launch.cli.arguments import split_strategies
from launch.cli.command import command
from launch.cli.options import HardwareFile, Overrides
from launch.cli.output import CommandOutput
from launch.commands.compare import compare
from launch.commands.ds_config import answer_ds_config
from launch.commands.hf_model import answer_model
from launch.commands.picture import one_plan_only, write_picture
from launch.commands.prediction import figure_lines, forecast, forecast_dict, print_forecast
from planner import Plan, Problem, StrategyError, build_plan, load
from planner.counts.rank_workload import ExpertImbalance
from planner.exit_codes import ExitCode
from planner.loading.source_file import read_source


@command
def plan(
    output: CommandOutput,
    strategy: Annotated[
        str | None,
        typer.Argument(help="strategy file in YAML; not needed with --from", show_default=False),
    ] = None,
    overrides: Overrides = None,
    is_full: Annotated[
        bool, typer.Option("--full", help="also print the complete strategy with all defaults")
    ] = False,
    hardware: HardwareFile = None,
    balance: Annotated[
        float,
        typer.Option(
            "--balance",
            help="expert load balance: mean tokens per EP rank over those of the fullest",
            min=0.001,
            max=1.0,
            show_default=True,
        ),
    ] = 1.0,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="PATH",
            help="take the model from a Hugging Face folder or config.json, or keys from a config of "
            "DeepSpeed, Megatron-LM and others",
            show_default=False,
        ),
    ] = None,
    svg: Annotated[
        str | None,
        typer.Option("--svg", metavar="FILE", help="also draw the plan as an SVG file", show_default=False),
    ] = None,
) -> ExitCode:
    """Show stages, ranks, hosts, groups, batch, memory and predicted time; two strategies side by side.

    Exit code 1 if one plan does not fit its memory or misses a limit that is written.
    """
    model_from = _only_one(sources or [])
    others, changes = split_strategies(overrides or ())
    if svg is not None and (strategy is None or others):
        raise one_plan_only()
    if strategy is None:
        if model_from is None:
            raise _no_strategy()
        source = read_source(model_from)
        if source.kind != "model":
            return answer_ds_config(output, source)
        return answer_model(output, model_from)
    imbalance = ExpertImbalance(factor=1 / balance)
    if others:
        return compare(
            output,
            [strategy, *others],
            changes,
            hardware=hardware,
            imbalance=imbalance,
            model_from=model_from,
            plan_dict_of=lambda built: _plan_dict(built, imbalance, is_full),
            is_full=is_full,
        )
    built = build_plan(load(strategy, changes, model_from=model_from, hardware=hardware))
    # Predicted before anything is printed or drawn: a wrong --hardware must not leave half an answer.
    found = forecast(built, hardware, imbalance)
    code = ExitCode.OK if all(check.holds for check in found.limits) else ExitCode.NEGATIVE
    if svg is not None:
        write_picture(built, svg)
    if output.is_json:
        answer = {"plan": _plan_dict(built, imbalance, is_full), "prediction": forecast_dict(built, found)}
        return output.print_json(code, answer)
    from planner.report.plan_report import print_plan

    figures = figure_lines(built, found)
    print_plan(built, sys.stdout, is_plain=output.is_plain, is_full=is_full, figures=figures)
    _print_memory(output, built, imbalance)
    _print_ignored(built)
    print_forecast(output, built, found)
    return code


def _plan_dict(built: Plan, imbalance: ExpertImbalance, is_full: bool) -> dict[str, Any]:
    from planner.plan.serialization import plan_dict
    from planner.report.memory_report import memory_dict

    content = {**plan_dict(built), "memory": memory_dict(built, imbalance)}
    if is_full:
        content["strategy"] = built.strategy.model_dump(mode="json", context={"text": True})
    return content


def _print_memory(output: CommandOutput, built: Plan, imbalance: ExpertImbalance) -> None:
    from planner.report.memory_report import memory_lines, memory_table

    print()
    lines = memory_lines(built, imbalance)
    output.print_tables(lines[:1], (memory_table(built, imbalance),), lines[1:])


def _print_ignored(built: Plan) -> None:
    """Keys of a Hugging Face config, named or pasted under `model:`, that have no effect."""
    ignored = built.strategy.sources.ignored_model_keys
    if ignored:
        print(f"note: ignored keys of the model's config: {', '.join(ignored)}")
    for left in built.strategy.sources.left_out:
        print(f"note: not taken from the file of --from: {left}")


def _only_one(sources: list[str]) -> str | None:
    if len(sources) > 1:
        problem = Problem(
            code="SW482",
            found=f"--from is given {len(sources)} times",
            expected="one file or folder",
            fix=f"keep --from {shlex.quote(sources[0])} or another one of them",
        )
        raise StrategyError([problem])
    return sources[0] if sources else None


def _no_strategy() -> StrategyError:
    problem = Problem(
        code="SW482",
        found="no strategy",
        expected="python -m launch plan STRATEGY [key=value …], or --from PATH",
        fix="add --help to see the options",
    )
    return StrategyError([problem])
