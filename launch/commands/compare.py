"""The `plan` command with two strategies: both plans side by side, the same overrides applied to both."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from launch.cli.output import CommandOutput
from launch.commands.prediction import Forecast, forecast, forecast_dict
from planner import Plan, Problem, StrategyError, build_plan, load
from planner.counts.rank_workload import ExpertImbalance
from planner.exit_codes import ExitCode

if TYPE_CHECKING:
    from planner.report.comparison import Side


def compare(
    output: CommandOutput,
    files: Sequence[str],
    overrides: Sequence[str],
    *,
    hardware: str | None,
    imbalance: ExpertImbalance,
    model_from: str | None,
    plan_dict_of: Callable[[Plan], dict[str, Any]],
    is_full: bool,
) -> ExitCode:
    """Prints two plans side by side.

    Args:
        plan_dict_of: a plan as `plan --json` prints it.

    Raises:
        StrategyError: with the Problems of both files, or that there are more than two.
    """
    from planner.report import comparison

    if len(files) > 2:
        raise StrategyError([_too_many(files)])
    sides = _forecast_all(files, overrides, hardware, imbalance, model_from)
    a, b = (
        comparison.Side(
            file=file,
            plan=plan,
            prediction=found.prediction,
            run=found.run,
            limits=found.limits,
        )
        for file, plan, found in sides
    )
    if output.is_json:
        plans = [
            {"file": file, "plan": plan_dict_of(plan), "prediction": forecast_dict(plan, found)}
            for file, plan, found in sides
        ]
        answer = {"plans": plans, "comparison": comparison.comparison_dict(a, b)}
        return output.print_json(ExitCode.OK, answer)
    from planner.plan.serialization import full_strategy

    if is_full:
        for letter, side in (("A", a), ("B", b)):
            print(f"# {letter}: {side.file}\n{full_strategy(side.plan.strategy)}")
    keys = comparison.keys_table(a, b)
    notes = [] if keys.rows else ["no key that affects the plan differs"]
    notes += [f"A: {line}" for line in _own_assumptions(a, b)]
    notes += [f"B: {line}" for line in _own_assumptions(b, a)]
    tables = [comparison.quantity_table(a, b), comparison.phases_table(a, b)]
    output.print_tables(comparison.heading(a, b), [*tables, *([keys] if keys.rows else [])], notes)
    return ExitCode.OK


def _own_assumptions(side: "Side", other: "Side") -> list[str]:
    """Assumptions of one prediction that the other does not share."""
    shared = set(other.prediction.assumptions)
    own = [line for line in side.prediction.assumptions if line not in shared]
    runtime = [side.prediction.runtime] if side.prediction.runtime != other.prediction.runtime else []
    return [*(f"predicted for {line}" for line in runtime), *(f"assumed: {line}" for line in own)]


def _forecast_all(
    files: Sequence[str],
    overrides: Sequence[str],
    hardware: str | None,
    imbalance: ExpertImbalance,
    model_from: str | None,
) -> list[tuple[str, Plan, Forecast]]:
    found, problems = [], []
    for file in files:
        try:
            plan = build_plan(load(file, overrides, model_from=model_from, hardware=hardware))
            found.append((file, plan, forecast(plan, hardware, imbalance)))
        except StrategyError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise StrategyError(problems)
    return found


def _too_many(files: Sequence[str]) -> Problem:
    return Problem(
        code="SW484",
        found=f"{len(files)} strategies: {', '.join(files)}",
        expected="one strategy, or two to compare, then key=value",
        fix="compare them in pairs",
    )
