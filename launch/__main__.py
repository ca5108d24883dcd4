"""Command line: python -m launch COMMAND STRATEGY [key=value …] [--json] [--plain]."""

import contextlib
import difflib
import os
import shlex
import sys
import traceback
from typing import Annotated

import typer

from launch.cli.command import Work
from launch.cli.output import CommandOutput
from launch.commands.audit import audit
from launch.commands.cordon import cordon
from launch.commands.drill import drill
from launch.commands.explain import explain
from launch.commands.fallback import fallback
from launch.commands.generate import generate
from launch.commands.init import init
from launch.commands.ledger import ledger
from launch.commands.monitor import monitor
from launch.commands.plan import plan
from launch.commands.preflight import preflight
from launch.commands.report import report
from launch.commands.run import run
from launch.commands.search import search
from planner import Problem, StrategyError, __version__
from planner.exit_codes import ExitCode
from planner.standard_streams import end_output, find_output_failure, open_standard_streams

COMMANDS = (
    init,
    plan,
    search,
    audit,
    fallback,
    generate,
    preflight,
    run,
    drill,
    cordon,
    monitor,
    report,
    ledger,
    explain,
)
_OPERANDS = {
    "init": "--model FOLDER --gpu NAME",
    "monitor": "RUN",
    "report": "RUN [RUN …]",
    "ledger": "[RUN …]",
    "explain": "SWnnn",
}
_HELP = {"-h", "--help"}
_NO_COMMAND_NEEDED = {*_HELP, "--version"}

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Plan, check and launch the training of Mixture-of-Experts models.",
)
for function in COMMANDS:
    app.command()(function)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"switchyard {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Plan, check and launch the training of Mixture-of-Experts models."""


def main(arguments: list[str]) -> int:
    """Runs one command and returns the exit code of the process; users never see a traceback.

    SWITCHYARD_DEBUG=1 prints the traceback of an internal error.
    """
    open_standard_streams()
    output = CommandOutput.of(arguments)
    code = ExitCode.OK
    try:
        code = _answer(output, arguments)
    except KeyboardInterrupt:
        code = ExitCode.STOPPED
    except (Exception, SystemExit) as error:  # typer's parser exits where a pipe has no reader
        if find_output_failure() is None:
            if os.environ.get("SWITCHYARD_DEBUG") == "1":
                traceback.print_exc()
            with contextlib.suppress(OSError):
                code = output.print_internal_error(error)
    return end_output(code, is_json=output.is_json)


def _answer(output: CommandOutput, arguments: list[str]) -> ExitCode:
    """Does the work of a command, or prints every Problem that keeps it from that."""
    try:
        work = _parse(arguments, output.command)
        return work(output) if work is not None else ExitCode.OK
    except StrategyError as error:
        return output.print_problems(error.problems)


def _parse(arguments: list[str], command: str | None) -> Work | None:
    """The work of a command, or None when help or version were printed."""
    known = sorted(function.__name__ for function in COMMANDS)
    if command not in known and (command is not None or not _NO_COMMAND_NEEDED & set(arguments)):
        raise StrategyError([_unknown_command(command, known, asks_for_help=bool(_HELP & set(arguments)))])
    try:
        work = app(arguments, prog_name="python -m launch", standalone_mode=False)
    except Exception as error:
        # typer's parser raises the errors of its own copy of click, or of click itself, by version.
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        problem = Problem(
            code="SW482",
            found=str(format_message()).rstrip("."),
            expected=f"python -m launch {_usage(command or 'COMMAND', 'STRATEGY [key=value …]')}",
            fix=_without_dashes(arguments) or "add --help to see the options",
        )
        raise StrategyError([problem]) from None
    return work if callable(work) else None


def _without_dashes(arguments: list[str]) -> str | None:
    """What to write in place of `--parallel.ep=2` and `--parallel.ep 2`; None where no key has dashes."""
    from planner.loading.json_schema import list_paths

    for place, argument in enumerate(arguments):
        key, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and key in list_paths():
            after = arguments[place + 1] if len(arguments) > place + 1 else "VALUE"
            text = f"{key}={value if equals else 'VALUE' if after.startswith('--') else after}"
            return f"write {shlex.quote(text)}, without dashes"
    return None


def _usage(command: str, usual: str) -> str:
    return f"{command} {_OPERANDS.get(command, usual)}"


def _unknown_command(command: str | None, known: list[str], *, asks_for_help: bool) -> Problem:
    close = difflib.get_close_matches(command or "", known, n=1)
    found = "no command" if command is None else f"unknown command {command!r}"
    if close:
        found += f"; did you mean {close[0]}?"
    meant = close[0] if close else "plan"
    fix = f"python -m launch {f'{meant} --help' if asks_for_help else _usage(meant, 'STRATEGY')}"
    if command is not None and not close:
        fix = "python -m launch --help"
    return Problem(code="SW481", found=found, expected=f"one of: {', '.join(known)}", fix=fix)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
