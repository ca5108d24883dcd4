"""What a file holds that is not read as it is, and the program that writes its documents as JSON lines."""

import re
import shlex
from typing import NamedTuple

from runtime.data.compression import Compression, piped
from runtime.data.naming import Naming, converted_name, shell_path

STDIN = re.compile(r"sys\.stdin(?!\.buffer)")


class Foreign(NamedTuple):
    """What the documents are, and the Python program that writes them as JSON lines from stdin to stdout.

    package: one that the program needs. note: what a person should know of the result.
    """

    name: str
    program: str
    package: str | None = None
    note: str | None = None


def lines_of(head: str, is_complete: bool) -> list[str]:
    """The lines of the text that begins with `head`, without one that it cuts off."""
    lines = head.split("\n")
    return lines if is_complete else lines[:-1]


def share_of(pattern: re.Pattern[str], lines: list[str]) -> float:
    """Of the lines that the pattern matches from end to end; 0 of none."""
    return sum(pattern.fullmatch(line) is not None for line in lines) / max(1, len(lines))


def conversion(foreign: Foreign, compression: Compression | None, encoding: str, naming: Naming) -> str:
    """The fix: the command that converts the file, and the override that names the result."""
    new = converted_name(naming.file)
    program = foreign.program
    if STDIN.search(program):
        program = STDIN.sub(f'io.TextIOWrapper(sys.stdin.buffer, "{encoding}")', program)
        program = program.replace("import ", "import io, ", 1)
    command = piped(naming.file, compression, f"python -c {shlex.quote(program)}")
    install = f"pip install {foreign.package} && " if foreign.package else ""
    command = f"{install}{command} > {shell_path(new)}"
    note = f" ({foreign.note})" if foreign.note else ""
    return f"convert it to JSON lines{note}: {naming.then_write(command, new)}"
