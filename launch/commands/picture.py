"""`plan --svg FILE`: the plan's picture as a file."""

from pathlib import Path

from planner import Plan, Problem, StrategyError
from planner.files import replace


def write_picture(plan: Plan, file: str) -> None:
    """Draw a plan; the folder must exist.

    Raises:
        StrategyError: when the file cannot be written.
    """
    from planner.report.plan_svg import plan_svg

    try:
        replace(Path(file), plan_svg(plan).encode())
    except OSError as error:
        problem = Problem(
            code="SW380",
            found=f"{file} cannot be written: {error.strerror}",
            expected="a file in a folder that exists and that you may write to",
            fix="make the folder, or name another file after --svg",
        )
        raise StrategyError([problem]) from None


def one_plan_only() -> StrategyError:
    """--svg beside two strategies, or beside none."""
    problem = Problem(
        code="SW381",
        found="--svg draws one plan",
        expected="python -m launch plan STRATEGY --svg FILE",
        fix="give one strategy, or leave --svg out",
    )
    return StrategyError([problem])
