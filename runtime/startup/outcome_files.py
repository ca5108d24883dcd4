"""done.json and failed.json: how an attempt of a run ended, written only while that attempt holds the run."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.files import replace
from planner.run_holder import DONE_NAME, FAILED_NAME
from runtime.startup.claims import holds, is_gone, newest_attempt, to_bytes

logger = logging.getLogger(__name__)


def is_done(run_folder: Path) -> bool:
    """Whether the run is finished, and no attempt has begun since."""
    return (run_folder / DONE_NAME).exists()


def may_be_running(run_folder: Path) -> bool:
    """Whether the last attempt left neither done.json nor failed.json: it is running, or it was killed."""
    has_ended = any((run_folder / name).exists() for name in (DONE_NAME, FAILED_NAME))
    return newest_attempt(run_folder) > 0 and not has_ended


def write_done(run_folder: Path, result: Mapping[str, Any]) -> bool:
    """Write done.json, with the `attempt` and its result: the only sign of success.

    Returns whether it was written; a newer attempt may hold the run, or its folder be gone.
    """
    assert isinstance(result.get("attempt"), int), f"a result without an attempt: {result}"
    return _write_end(run_folder, DONE_NAME, result)


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


def _write_end(run_folder: Path, name: str, content: Mapping[str, Any]) -> bool:
    attempt = content["attempt"]
    if is_gone(run_folder, attempt):
        logger.warning("SW645 %s is not written: the run's folder was deleted or moved", run_folder / name)
        return False
    if not holds(run_folder, attempt):
        logger.warning(
            "SW642 %s is not written: a newer attempt than %d holds the run", run_folder / name, attempt
        )
        return False
    replace(run_folder / name, to_bytes(content))
    return True
