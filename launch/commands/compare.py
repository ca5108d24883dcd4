"""The `plan` command with two strategies: both plans side by side, the same overrides applied to both."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from launch.cli.output import YES, print_json
from launch.commands.prediction import foresee, prediction_answer
from planner import Problem, StrategyError, build_plan, load
from planner.counts.rank_workload import Load

if TYPE_CHECKING:
    from planner.report.comparison import Side


def compare(
    files: Sequence[str],
    overrides: Sequence[str],
    *,
    hardware: str | None,
    expert_load: Load,
    model_from: str | None,
    plan_of: Any,
    is_json: bool,
    is_plain: bool,
    is_full: bool,
) -> int:
    """Prints two plans side by side.

    Args:
        plan_of: what `plan --json` says of one plan.

    Raises:
        StrategyError: with the Problems of both files, or that there are more than two.
    """
    if len(files) > 2:
        raise StrategyError([_too_many(files)])
    a, b = _sides(files, overrides, hardware, expert_load, model_from)
    from planner.report import comparison as comparison

    if is_json:
        plans = [
            {
                "file": side.file,
                "plan": plan_of(side.plan),
                "prediction": prediction_answer(side.plan, hardware, expert_load),
            }
            for side in (a, b)
        ]
        print_json("plan", YES, {"plans": plans, "comparison": comparison.comparison_dict(a, b)})
        return YES
    from planner.plan.serialization import full_strategy
    from planner.report.plan_report import print_tables

    if is_full:
        for letter, side in (("A", a), ("B", b)):
            print(f"# {letter}: {side.file}\n{full_strategy(side.plan.strategy)}")
    keys = comparison.keys_table(a, b)
    notes = [] if keys.rows else ["no key that makes a plan differs"]
    notes += [
        f"{letter}: {line}"
        for letter, side in (("A", a), ("B", b))
        for line in _own_assumptions(side, b if side is a else a)
    ]
    tables = [comparison.quantity_table(a, b), comparison.phases_table(a, b)]
    print_tables(
        comparison.heading(a, b),
        [*tables, *([keys] if keys.rows else [])],
        notes,
        sys.stdout,
        is_plain=is_plain,
    )
    return YES


def _own_assumptions(side: "Side", other: "Side") -> list[str]:
    """What only one of the two predictions rests on; the rest is the same and says nothing of either."""
    shared = set(other.prediction.assumptions)
    own = [line for line in side.prediction.assumptions if line not in shared]
    runtime = [side.prediction.runtime] if side.prediction.runtime != other.prediction.runtime else []
    return [*(f"predicted for {line}" for line in runtime), *(f"assumed: {line}" for line in own)]


def _sides(
    files: Sequence[str],
    overrides: Sequence[str],
    hardware: str | None,
    expert_load: Load,
    model_from: str | None,
) -> tuple["Side", "Side"]:
    from planner.report.comparison import Side

    sides, problems = [], []
    for file in files:
        try:
            built = build_plan(load(file, overrides, model_from=model_from))
            prediction, run, limits, _ = foresee(built, hardware, expert_load)
        except StrategyError as error:
            problems += [problem for problem in error.problems if problem not in problems]
            continue
        sides.append(Side(file=file, plan=built, prediction=prediction, run=run, limits=limits))
    if problems:
        raise StrategyError(problems)
    return sides[0], sides[1]


def _too_many(files: Sequence[str]) -> Problem:
    return Problem(
        path=None,
        line=None,
        found=f"{len(files)} strategies are given: {', '.join(files)}",
        expected="one strategy, or two side by side, then key=value",
        fix="compare them in pairs",
    )
