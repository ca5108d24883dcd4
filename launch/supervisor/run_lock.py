"""Lock of a run: one supervisor at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from planner import Problem, StrategyError

LOCK_NAME = "supervisor.lock"


@contextlib.contextmanager
def supervision(run_folder: Path) -> Iterator[None]:
    """Holds the run for this supervisor.

    Raises:
        StrategyError: if another one does.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    with (run_folder / LOCK_NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            problem = Problem(
                code="SW451",
                file=str(run_folder),
                found=f"another supervisor has this run ({file.read().strip() or 'it has not said which'})",
                expected="one supervisor of a run",
                fix="wait for it, or stop it (TERM: it saves and ends); or set another name",
            )
            raise StrategyError([problem]) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield
