"""Ranks that have found what rank 0 reports: they wait until it has spoken, and end with the same code.

Only the standard library, so that it can run before anything else is loaded. There is no channel between
ranks yet. A launcher ends all ranks when one fails, so a rank that ended before rank 0 has spoken would
silence it; one that waits is ended with rank 0, or sees that it has ended.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from runtime.process.launchers import VARIABLES, Launcher, find_launcher
from runtime.process.started_by import launcher_id, parent_of

LIMIT_S = 20.0
_POLL_S = 0.2
_PROCESSES = Path("/proc")


def leave_to_rank_0(code: int, environment: Mapping[str, str] = os.environ) -> NoReturn:
    """Ends this process once rank 0 has ended, after 20 s at most. Rank 0 may be on another host."""
    wait_for_rank_0(find_launcher(environment))
    sys.exit(code)


def wait_for_rank_0(launcher: Launcher, limit_s: float = LIMIT_S) -> None:
    """Waits until rank 0, if it has the same parent, has ended; `limit_s` where it is not to be seen."""
    deadline = time.monotonic() + limit_s
    name = VARIABLES[launcher][0] if launcher is not Launcher.NONE else ""
    time.sleep(_POLL_S)  # the launcher may still be starting it
    ranks = dict(_siblings(name))
    rank_0 = next((process for process, rank in ranks.items() if rank == "0"), None)
    if rank_0 is None and len(ranks) > 1:
        return  # the others are to be seen: it has ended
    while time.monotonic() < deadline and (rank_0 is None or parent_of(rank_0) == launcher_id()):
        time.sleep(_POLL_S)


def _siblings(variable: str) -> Iterator[tuple[int, str]]:
    """Process id and rank of every rank that the parent of this process has started, this one among them."""
    parent, sign = launcher_id(), f"{variable}=".encode()
    try:
        processes = [int(path.name) for path in _PROCESSES.iterdir() if path.name.isdecimal()]
    except OSError:
        return
    for process in processes:
        if parent_of(process) != parent:
            continue
        try:
            environment = (_PROCESSES / str(process) / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for entry in environment:
            if entry.startswith(sign):
                yield process, entry[len(sign) :].decode(errors="replace")
