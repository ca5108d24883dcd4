"""How a command answers: text or one JSON object on stdout, Problems on stderr, an exit code."""

import json
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from planner.problems import Problem

YES = 0
NO = 1
WRONG_INPUT = 2
BROKE = 3
STOPPED = 130

SCHEMA_VERSION = 1


def print_json(command: str | None, code: int, content: dict[str, Any]) -> None:
    """The one object that --json promises; ASCII, so that any terminal and any reader takes it."""
    print(json.dumps({"schema_version": SCHEMA_VERSION, "command": command, "code": code, **content}))


def print_problems(command: str | None, problems: Iterable[Problem], *, is_json: bool) -> int:
    """Every Problem on stderr, and with --json also on stdout; the exit code."""
    listed = list(problems)
    for problem in listed:
        print(problem, file=sys.stderr)
    if len(listed) > 1:
        print(f"{len(listed)} problems", file=sys.stderr)
    if is_json:
        print_json(command, WRONG_INPUT, {"problems": [problem.as_json() for problem in listed]})
    return WRONG_INPUT


def is_terminal(stream: TextIO) -> bool:
    """Whether people watch: tables and colour only then."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
