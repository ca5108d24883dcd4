"""Output of a command: text or one JSON object on stdout, Problems on stderr, an exit code."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from planner.exit_codes import ExitCode
from planner.problems import Problem

if TYPE_CHECKING:
    from planner.report.tables import Table

SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class CommandOutput:
    """How one command answers; made once, in main, so that a command line that does not parse has it too.

    is_plain: no colour and no box drawing, because of --plain or because stdout is not a terminal.
    """

    command: str | None
    is_json: bool
    is_plain: bool

    @staticmethod
    def of(arguments: Sequence[str]) -> "CommandOutput":
        return CommandOutput(
            command=next((argument for argument in arguments if not argument.startswith("-")), None),
            is_json="--json" in arguments,
            is_plain="--plain" in arguments or not is_terminal(sys.stdout),
        )

    def print_json(self, code: ExitCode, content: dict[str, Any]) -> ExitCode:
        """The one object that --json promises, in ASCII, which every terminal and reader accepts."""
        head = {"schema_version": SCHEMA_VERSION, "command": self.command, "code": code}
        print(json.dumps({**head, **content}))
        return code

    def print_tables(
        self, heading: Sequence[str], tables: Sequence["Table"], notes: Sequence[str] = ()
    ) -> None:
        from planner.report.tables import print_tables

        print_tables(heading, tables, notes, sys.stdout, is_plain=self.is_plain)

    def print_problems(self, problems: Iterable[Problem]) -> ExitCode:
        """Every Problem on stderr, and with --json also on stdout."""
        listed = list(problems)
        for problem in listed:
            print(problem, file=sys.stderr)
        if len(listed) > 1:
            print(f"{len(listed)} problems", file=sys.stderr)
        if self.is_json:
            self.print_json(ExitCode.WRONG_INPUT, {"problems": [problem.as_json() for problem in listed]})
        return ExitCode.WRONG_INPUT

    def print_internal_error(self, error: BaseException) -> ExitCode:
        """One line instead of a traceback."""
        what = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"SW499 internal error (please report it): {what}", file=sys.stderr)
        print("  SWITCHYARD_DEBUG=1 prints the traceback", file=sys.stderr)
        if self.is_json:
            self.print_json(ExitCode.INTERNAL_ERROR, {"error": what})
        return ExitCode.INTERNAL_ERROR


def is_terminal(stream: TextIO) -> bool:
    """Whether people read it directly: tables and colour only then."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
