"""Claims of a run: which attempt holds its folder.

The attempt with the highest number in attempts/ holds the run. A number is claimed by creating its file,
which only one process can do; the content is for people. So a claim whose writer was killed half-way counts
like any other, and the file names alone show that a run was taken over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from planner.files import fsync_folder, write_new
from planner.run_holder import BEAT_S, CLAIMS_NAME, DONE_NAME, FAILED_NAME, newest_attempt, own_process
from runtime.process.job import launch_of_rank

SCHEMA_VERSION = 1

logger = logging.getLogger(__name__)


def claim(run_folder: Path, info: Mapping[str, Any]) -> int:
    """Take the run over; returns the attempt's number, one above the highest there is.

    done.json and failed.json of older attempts are removed: the run has not ended. `info` (the plan's
    fingerprint) is written into the claim beside attempt, started (seconds since 1970), this process and
    the launch that started it, which takes only the end of its own attempts for its own.
    """
    folder = run_folder / CLAIMS_NAME
    folder.mkdir(parents=True, exist_ok=True)
    attempt = None
    while attempt is None:
        number = newest_attempt(run_folder) + 1
        who = {**own_process(), "started": time.time()}
        if (launch := launch_of_rank()) is not None:
            who["launch"] = launch
        try:
            write_new(folder / _file_name(number), to_bytes({"attempt": number, **who, **info}))
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
    """Whether no newer attempt has claimed the run, whose folder is still there."""
    return newest_attempt(run_folder) == attempt


def is_gone(run_folder: Path, attempt: int) -> bool:
    """Whether the claim of an attempt is gone: the run's folder was deleted or moved."""
    return not (run_folder / CLAIMS_NAME / _file_name(attempt)).exists()


def keep_alive(run_folder: Path, attempt: int) -> NoReturn:
    """Touches the claim of an attempt while this process lives: hosts that do not see it look there."""
    path = run_folder / CLAIMS_NAME / _file_name(attempt)
    while True:
        with contextlib.suppress(OSError):  # deleted, or the file system is away: who saves is told
            os.utime(path)
        time.sleep(BEAT_S)


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


def _file_name(attempt: int) -> str:
    return f"{attempt:04d}.json"


def to_bytes(content: Mapping[str, Any]) -> bytes:
    """JSON with its schema_version, as the files of a run have it."""
    return (
        json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=1, allow_nan=False).encode() + b"\n"
    )
