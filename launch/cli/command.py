"""Decorator of a command: parses first, works later, outside of typer."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from launch.cli.output import CommandOutput
from planner.exit_codes import ExitCode

Work = Callable[[CommandOutput], ExitCode]

_JSON = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
_PLAIN = Annotated[bool, typer.Option("--plain", help="print text without colour and lines, for logs")]


def command(function: Callable[..., ExitCode]) -> Callable[..., Work]:
    """What typer registers for `function(output, …)`: takes the arguments and returns the work to be done.

    typer turns a KeyboardInterrupt and a closed pipe inside a command into exits of its own (typer 0.29,
    core.py `_main`), so main does the work after typer has returned. --json and --plain are declared here for
    --help only: main has read them into an CommandOutput already.
    """

    @functools.wraps(function)
    def parsed(*, is_json: bool, is_plain: bool, **arguments: Any) -> Work:
        return lambda output: function(output, **arguments)

    given = dict(list(inspect.signature(function).parameters.items())[1:])  # without output
    for name, kind in (("is_json", _JSON), ("is_plain", _PLAIN)):
        given[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in given.values()]
    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return parsed
