"""Holder of a run: the process whose attempt claimed the run's folder, and whether it still trains it.

A claim is a file attempts/NNNN.json; the highest number holds the run. It names the process that wrote it,
which touches the file every few seconds, so that hosts that do not see the process see the file change.
"""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from planner.files import read_object
from planner.problems import Problem

CLAIMS_NAME, DONE_NAME, FAILED_NAME = "attempts", "done.json", "failed.json"
BEAT_S = 5.0
# Between two looks at a claim of another host; file systems of several hosts show a change a moment later.
WATCH_S = 3 * BEAT_S
_MAX_DIGITS = 9  # of an attempt's number; a longer name is not of this program
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROCESSES = Path("/proc/self/ns/pid")


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a run."""

    attempt: int
    pid: int
    host: str

    def __str__(self) -> str:
        return f"attempt {self.attempt}, pid {self.pid} on {self.host}"


def own_process() -> dict[str, Any]:
    """What a claim says of the process that writes it."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "process_started": psutil.Process().create_time(),
    }


def find_live_holder(run_folder: Path, *, wait: Callable[[float], None] = time.sleep) -> Holder | None:
    """The holder of a run that is being trained; None if nobody trains it.

    Waits up to 15 s where the holder is a process of another host, or of another container.
    """
    path = newest_claim(run_folder)
    if path is None or any((run_folder / name).exists() for name in (DONE_NAME, FAILED_NAME)):
        return None
    claim = read_object(path)
    pid, host = claim.get("pid"), claim.get("host")
    if not isinstance(pid, int) or not isinstance(host, str) or "machine" not in claim:
        return None  # torn, or of a version without heartbeats: nothing shows that it lives
    holder = Holder(attempt=int(path.stem), pid=pid, host=host)
    if claim["machine"] == _machine():
        is_other = pid != os.getpid()
        return holder if is_other and _lives(pid, claim.get("process_started")) else None
    return holder if _changes(path, wait) else None


def held_problem(run_folder: Path, holder: Holder, *, otherwise: str = "") -> Problem:
    """Of a start into a run that another process trains. otherwise: completes the fix, from its "; "."""
    return Problem(
        code="SW647",
        path="name",
        found=f"{run_folder} is being trained ({holder})",
        expected="a run that nobody trains, or a name of its own",
        fix=f"wait for it; or stop it (kill -TERM {holder.pid} on {holder.host} saves its last step); or "
        f"choose another name{otherwise}",
    )


def newest_claim(run_folder: Path) -> Path | None:
    """The claim that holds the run."""
    claims = [
        path
        for path in (run_folder / CLAIMS_NAME).glob("*.json")
        if path.stem.isdecimal() and len(path.stem) <= _MAX_DIGITS
    ]
    return max(claims, key=lambda path: int(path.stem), default=None)


def newest_attempt(run_folder: Path) -> int:
    """The highest number that was claimed; 0: none."""
    path = newest_claim(run_folder)
    return 0 if path is None else int(path.stem)


def host_and_boot() -> str:
    """Equal for processes of one machine under one name."""
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return f"{socket.gethostname()} {boot}"


def _machine() -> str:
    """Equal for processes that see each other's process ids."""
    space = _PROCESSES.readlink() if _PROCESSES.exists() else ""
    return f"{host_and_boot()} {space}"


def _lives(pid: int, started: object) -> bool:
    """Whether it is that process, and not a later one with its number."""
    try:
        process = psutil.Process(pid)
        is_same = isinstance(started, (int, float)) and abs(process.create_time() - started) < 1.0
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _changes(path: Path, wait: Callable[[float], None]) -> bool:
    first, waited_s = _changed_at(path), 0.0
    while waited_s < WATCH_S:
        wait(1.0)
        waited_s += 1.0
        if _changed_at(path) != first:
            return True
    return False


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
