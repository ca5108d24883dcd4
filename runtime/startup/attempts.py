"""Attempts: which start of a run holds its folder, and how it ended (done.json, failed.json).

The attempt with the highest number in attempts/ holds the run. A number is claimed by creating its file,
which only one process can do; the content is for people. So a claim whose writer was killed half-way counts
like any other, and the file names alone show that a run was taken over.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.exit_codes import ExitCode
from planner.files import fsync_folder, replace, write_new

SCHEMA_VERSION = 1
FOLDER_NAME, DONE_NAME, FAILED_NAME = "attempts", "done.json", "failed.json"

logger = logging.getLogger(__name__)


def claim(run_folder: Path, info: Mapping[str, Any]) -> int:
    """Take the run over; returns the attempt's number, one above the highest there is.

    done.json and failed.json of older attempts are removed: the run has not ended. `info` (the plan's
    fingerprint) is written into the claim beside attempt, pid, host and started (seconds since 1970).
    """
    folder = run_folder / FOLDER_NAME
    folder.mkdir(parents=True, exist_ok=True)
    attempt = None
    while attempt is None:
        number = _highest(run_folder) + 1
        who = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        try:
            write_new(folder / f"{number:04d}.json", _to_bytes({"attempt": number, **who, **info}))
            attempt = number
        except FileExistsError:
            logger.warning(
                "SW641 attempt %d of %s was claimed by another process at the same time", number, run_folder
            )
    for name in (DONE_NAME, FAILED_NAME):
        (run_folder / name).unlink(missing_ok=True)
    fsync_folder(run_folder)
    return attempt


def holds(run_folder: Path, attempt: int) -> bool:
    """Whether no newer attempt has claimed the run."""
    return _highest(run_folder) == attempt


def may_be_running(run_folder: Path) -> bool:
    """Whether the last attempt left neither done.json nor failed.json: it is running, or it was killed."""
    has_ended = any((run_folder / name).exists() for name in (DONE_NAME, FAILED_NAME))
    return _highest(run_folder) > 0 and not has_ended


def is_done(run_folder: Path) -> bool:
    """Whether the run is finished, and no attempt has begun since."""
    return (run_folder / DONE_NAME).exists()


def write_done(run_folder: Path, result: Mapping[str, Any]) -> None:
    """Write done.json, with the `attempt` and its result: the only sign of success."""
    assert isinstance(result.get("attempt"), int), f"a result without an attempt: {result}"
    _write_end(run_folder, DONE_NAME, result)


def write_failed(
    run_folder: Path,
    *,
    code: int,
    problems: Sequence[Mapping[str, Any]],
    checkpoint: int | None,
    attempt: int,
) -> None:
    """Write failed.json: the run ended before its last step.

    Args:
        code: the exit code of this process; the launcher may exit with another.
        problems: Problems as plain data; an internal error has only `found`.
        checkpoint: the step of the newest complete checkpoint; None: there is none.
    """
    content = {"attempt": attempt, "code": code, "problems": list(problems), "checkpoint": checkpoint}
    _write_end(run_folder, FAILED_NAME, content)


def set_aside(run_folder: Path) -> Path:
    """Move a run to the first free name of NAME.001, NAME.002, …; returns where it is now."""
    number = 1
    while True:
        target = run_folder.with_name(f"{run_folder.name}.{number:03d}")
        try:
            target.mkdir()  # takes the name; renaming a folder onto an empty one replaces it at once
        except FileExistsError:
            number += 1
            continue
        run_folder.rename(target)
        fsync_folder(target.parent)
        return target


def _write_end(run_folder: Path, name: str, content: Mapping[str, Any]) -> None:
    attempt = content["attempt"]
    if not holds(run_folder, attempt):
        logger.warning(
            "SW642 %s is not written: a newer attempt than %d holds the run", run_folder / name, attempt
        )
        return
    replace(run_folder / name, _to_bytes(content))


def _highest(run_folder: Path) -> int:
    names = (path.stem for path in (run_folder / FOLDER_NAME).glob("*.json"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _to_bytes(content: Mapping[str, Any]) -> bytes:
    return (
        json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=1, allow_nan=False).encode() + b"\n"
    )


def main(arguments: Sequence[str]) -> int:
    """`python -m runtime.attempts set-aside RUN`: makes room for a fresh start."""
    if len(arguments) != 2 or arguments[0] != "set-aside":
        print("usage: python -m runtime.attempts set-aside RUN", file=sys.stderr)
        return ExitCode.WRONG_INPUT
    folder = Path(arguments[1])
    if folder.is_dir():
        print(f"{folder} was moved to {set_aside(folder)}")
    return ExitCode.OK
