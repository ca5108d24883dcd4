"""Log of a rank in a file of its own, beside the terminal of the launch, which several ranks share.

`launch.sh` asks for it on several hosts, in place of DeepSpeed 0.19.8's --enable_each_rank_log: with that
option the ranks' reasons go to files only, and a launcher whose log folder is read-only ends without them.
The terminal gets what rank 0 prints and what the others report as errors; the file gets everything, also what
libraries write past Python.
"""

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TextIO

from planner.problems import Problem


class _Both(io.TextIOBase):
    """A text stream to the log and the terminal. One that takes nothing (a full disk) spares the other."""

    def __init__(self, log: TextIO, terminal: TextIO) -> None:
        self._log, self._terminal = log, terminal
        self._is_failure_shown = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._terminal.encoding

    def write(self, text: str, /) -> int:
        for stream in (self._log, self._terminal):
            with contextlib.suppress(OSError):
                stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in (self._log, self._terminal):
            with contextlib.suppress(OSError):
                stream.flush()
        failure: OSError | None = getattr(self._log, "failure", None)
        if failure is not None and self is sys.stderr and not self._is_failure_shown:
            self._is_failure_shown = True
            reason = (failure.strerror or str(failure)).lower()
            self._terminal.write(f"SW964 the log of this rank takes no text ({reason}): the run continues\n")


def open_rank_log(prefix: str, rank: int, host: str) -> Problem | None:
    """Moves stdout and stderr to PREFIX_rankN.log; the Problem if it cannot be written, and nothing moves."""
    path = Path(f"{prefix}_rank{rank}.log")
    try:
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        return Problem(
            code="SW609",
            path="output.folder",
            found=f"{host} cannot write the logs of its ranks to {path.parent}: "
            f"{(error.strerror or str(error)).lower()}",
            expected="a run folder that every host can write",
            fix=f"make {path.parent} writable on {host}, or set output.folder to a folder that is",
        )
    for number, name in ((1, "stdout"), (2, "stderr")):
        shown = os.dup(number) if name == "stderr" or rank == 0 else None
        os.dup2(log, number)
        if shown is not None:
            # A line is written at once: other ranks write to the same pipe.
            raw = io.BufferedWriter(io.FileIO(shown, "wb"))
            terminal = io.TextIOWrapper(raw, "utf-8", errors="backslashreplace", line_buffering=True)
            setattr(sys, name, _Both(getattr(sys, name), terminal))
    os.close(log)
    return None
