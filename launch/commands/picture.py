"""Pictures as files: of a plan with `plan --svg FILE`, of a search with `search --plot FILE`."""

import errno
from pathlib import Path

from planner import Plan, Problem, StrategyError
from planner.files import replace


def write_picture(plan: Plan, file: str) -> None:
    """Draw a plan; the folder must exist.

    Raises:
        StrategyError: when the file cannot be written.
    """
    from planner.report.plan_svg import plan_svg

    save_picture(plan_svg(plan), file, "--svg")


def save_picture(svg: str, file: str, option: str) -> None:
    """Write a picture that an option names the file of.

    Raises:
        StrategyError: when the file cannot be written.
    """
    try:
        target = Path(file).resolve()
        if target.exists() and not target.is_file():  # replacing /dev/null would take it from everybody
            raise OSError(errno.EINVAL, "it is not a file")
        replace(target, svg.encode())
    except OSError as error:
        problem = Problem(
            code="SW380",
            found=f"{file} cannot be written: {error.strerror}",
            expected="a file in a folder that exists and that you may write to",
            fix=f"make the folder, or name another file after {option}",
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
