"""`python -m launch explain CODE`: cause, example and fix of an error code."""

import difflib

from launch.cli.output import print_json
from planner import Problem, StrategyError
from planner.errors.catalog import error_catalog
from planner.exit_codes import ExitCode
from planner.report.errors_page import explain_text


def explain(code: str, *, is_json: bool) -> int:
    """Prints one entry of the error catalog.

    Raises:
        StrategyError: if there is no such code.
    """
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
    if is_json:
        print_json("explain", ExitCode.OK, {"entry": entry.as_dict()})
    else:
        print(explain_text(entry))
    return ExitCode.OK
