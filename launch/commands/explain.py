"""The `explain` command: cause, example and fix of an error code."""

import difflib
from typing import Annotated

import typer

from launch.cli.command import command
from launch.cli.output import CommandOutput
from planner import Problem, StrategyError
from planner.errors.catalog import error_catalog
from planner.exit_codes import ExitCode


@command
def explain(
    output: CommandOutput, code: Annotated[str, typer.Argument(help="an error code, for example SW201")]
) -> ExitCode:
    """Print cause, example and fix of an error code."""
    from planner.report.errors_page import explain_text

    catalog = error_catalog()
    entry = catalog.get(code.strip().upper())
    if entry is None:
        close = difflib.get_close_matches(code.upper(), catalog, n=1, cutoff=0.0)
        problem = Problem(
            code="SW491",
            found=f"no error code {code!r}",
            expected=f"a code from {min(catalog)} to {max(catalog)}; docs/errors.md lists them",
            fix=f"python -m launch explain {close[0]}",
        )
        raise StrategyError([problem])
    if output.is_json:
        return output.print_json(ExitCode.OK, {"entry": entry.as_dict()})
    print(explain_text(entry))
    return ExitCode.OK
