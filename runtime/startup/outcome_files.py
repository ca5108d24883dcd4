"""done.json and failed.json: how an attempt of a run ended, written only while that attempt holds the run."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planner import Problem
from planner.exit_codes import ExitCode
from planner.files import replace
from planner.run_holder import DONE_NAME, FAILED_NAME, newest_attempt, newest_claim
from runtime.checkpoint.commit import FOLDER_NAME as CHECKPOINTS_NAME
from runtime.checkpoint.commit import newest_step
from runtime.process.job import launch_of_rank
from runtime.startup.claims import claim, holds, is_gone, to_bytes

logger = logging.getLogger(__name__)


def is_done(run_folder: Path) -> bool:
    """Whether the run is finished, and no attempt has begun since."""
    return (run_folder / DONE_NAME).exists()


def may_be_running(run_folder: Path) -> bool:
    """Whether the last attempt left neither done.json nor failed.json: it is running, or it was killed."""
    has_ended = any((run_folder / name).exists() for name in (DONE_NAME, FAILED_NAME))
    return newest_attempt(run_folder) > 0 and not has_ended


def claim_failed_start(run_folder: Path) -> int | None:
    """The number of an attempt that failed before it claimed the run; None where it must not claim it.

    A start that failed must not take the folder from a run that may be alive, nor done.json from one that is
    finished.
    """
    return None if may_be_running(run_folder) or is_done(run_folder) else claim(run_folder, {})


def record_failure(run_folder: Path, problem: Problem, *, code: ExitCode) -> bool:
    """Write failed.json for ranks that have ended and could not do it; False where it is not theirs to write.

    For the launch, once it has ended all ranks: rank 0 may never have started, or was killed. This process
    runs through the launch's own link to the interpreter, as the ranks did.
    """
    attempt = claim_failed_start(run_folder)
    if attempt is None:
        if is_done(run_folder) or not _is_of_own_launch(run_folder):
            return False
        attempt = newest_attempt(run_folder)  # of a rank 0 that was killed
    write_failed(
        run_folder,
        code=code,
        problems=[problem.as_json()],
        checkpoint=newest_step(run_folder / CHECKPOINTS_NAME),
        attempt=attempt,
    )
    return True


def _is_of_own_launch(run_folder: Path) -> bool:
    """Whether the newest attempt is of the launch that started this process."""
    path, launch = newest_claim(run_folder), launch_of_rank()
    try:
        content = {} if path is None else json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False  # torn, or gone
    return launch is not None and isinstance(content, dict) and content.get("launch") == launch


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
    stopped: str | None = None,
) -> None:
    """Write failed.json: the run ended before its last step.

    Args:
        code: the exit code of this process; the launcher may exit with another.
        problems: Problems as plain data; an internal error has only `found`.
        checkpoint: the step of the newest complete checkpoint; None: there is none.
        stopped: of a requested stop, what was said of it.
    """
    content = {
        "attempt": attempt,
        "code": code,
        "problems": list(problems),
        "checkpoint": checkpoint,
        "stopped": stopped,
    }
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
