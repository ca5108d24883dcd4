"""Module that this host's environment lacks, as a message; imports only the standard library."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from runtime.process.job import link_of
from runtime.process.launchers import TORCH_VARIABLES, VARIABLES, find_launcher, is_other_rank_here
from runtime.process.rank_0_wait import leave_to_rank_0


def missing_module(error: ImportError) -> dict[str, str]:
    """The fields of a Problem."""
    host, python = socket.gethostname(), _interpreter()
    return {
        "code": "SW608",
        "found": f"{python} on {host} cannot load {error.name or 'a module'}: {error}",
        "expected": "the packages of this project, in the versions of constraints.txt, on every host",
        "fix": f"install them on {host}, in the project folder: {Path(python).with_name('pip')} install "
        "--constraint constraints.txt --editable .",
    }


def _interpreter() -> str:
    """Behind the attempt's own link to it (launch/job.py), which is gone when somebody reads this."""
    link = Path(sys.executable)
    return str(link.readlink()) if link_of(sys.executable) and link.is_symlink() else str(link)


def end_without_module(
    error: ImportError, code: int, environment: Mapping[str, str] = os.environ
) -> NoReturn:
    """Ends a rank that cannot load what tells a Problem; the first rank of each host says why.

    Args:
        code: the exit code.
    """
    if is_other_rank_here(environment):
        leave_to_rank_0(code, environment)
    _, _, local_rank = VARIABLES.get(find_launcher(environment), TORCH_VARIABLES)
    if environment.get(local_rank, "0") == "0":
        fields = missing_module(error)
        text = "{code} {found}\n  expected: {expected}\n  fix:      {fix}"  # as Problem prints it
        print(
            text.format(**fields),
            file=sys.stderr,
            flush=True,
        )
    sys.exit(code)
