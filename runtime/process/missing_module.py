"""Module that this host cannot load, as a message; imports only the standard library.

It is missing, or broken: a package cut short by a full disk is a SyntaxError, a library that torch opens by
itself and does not find is an OSError, and a package may raise whatever it likes.
"""

import os
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from runtime.process.job import link_of
from runtime.process.launchers import TORCH_VARIABLES, VARIABLES, find_launcher, is_other_rank_here
from runtime.process.rank_0_wait import leave_to_rank_0

_PROJECT = Path(__file__).resolve().parents[2]
_INSTALL = "install --constraint constraints.txt --editable ."


def is_load_failure(error: BaseException) -> bool:
    """Whether the error came up while a module was being loaded."""
    return isinstance(error, (ImportError, SyntaxError)) or _module_of(error) is not None


def missing_module(error: BaseException) -> dict[str, str]:
    """The fields of a Problem."""
    host, python = socket.gethostname(), _interpreter()
    pip, file = Path(python).with_name("pip"), _file_of(error)
    if isinstance(error, ImportError):
        what, text = error.name or "a module", str(error)
        fix = f"install them on {host}, in the project folder: {pip} {_INSTALL}"
    else:
        what, text = str(file or "a module"), f"{type(error).__name__}: {error}"
        fix = f"install them again on {host}, in the project folder: {pip} {_INSTALL} --force-reinstall"
    if file is not None and file.is_relative_to(_PROJECT) and "site-packages" not in file.parts:
        fix = f"restore {file} on {host}: git checkout -- {file.relative_to(_PROJECT)} in {_PROJECT}"
    return {
        "code": "SW608",
        "found": f"{python} on {host} cannot load {what}: {text}",
        "expected": "the packages of this project, in the versions of constraints.txt, on every host",
        "fix": fix,
    }


def _module_of(error: BaseException) -> Path | None:
    """The file of the innermost module whose own lines, outside of functions, were running."""
    frames = [
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__"
    ]
    return Path(frames[-1].f_code.co_filename) if frames else None


def _file_of(error: BaseException) -> Path | None:
    """The file that could not be loaded."""
    if isinstance(error, SyntaxError):
        return Path(error.filename) if error.filename else None
    if isinstance(error, ModuleNotFoundError):
        return None  # there is none
    return _module_of(error)


def _interpreter() -> str:
    """Behind the attempt's own link to it (launch/job.py), which is gone when somebody reads this."""
    link = Path(sys.executable)
    return str(link.readlink()) if link_of(sys.executable) and link.is_symlink() else str(link)


def end_without_module(error: Exception, code: int, environment: Mapping[str, str] = os.environ) -> NoReturn:
    """Ends a rank that cannot load what tells a Problem; the first rank of each host says why.

    Args:
        code: the exit code.
    """
    if is_other_rank_here(environment):
        leave_to_rank_0(code, environment)
    _, _, local_rank = VARIABLES.get(find_launcher(environment), TORCH_VARIABLES)
    if environment.get(local_rank, "0") == "0":
        fields = missing_module(error)
        text = "{code} {found}\n  expected: {expected}\n  fix:      {fix}".format(
            **fields
        )  # as Problem prints it
        print(_printable(text), file=sys.stderr, flush=True)
    if os.environ.get("SWITCHYARD_DEBUG"):
        traceback.print_exception(error)
    sys.exit(code)


def _printable(text: str) -> str:
    """Without what a terminal would obey; planner.terminal_text may be what cannot be loaded."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
