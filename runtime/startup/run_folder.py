"""State of a run's folder before training: what a run writes is of the right kind there, and can be written.

A dangling link in the place of `checkpoints/` would otherwise look like a run without checkpoints, and
training would begin again at step 1.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from planner import Problem
from runtime.checkpoint.commit import FOLDER_NAME as CHECKPOINTS_NAME
from runtime.data.cache import TOKENIZER_NAME
from runtime.files.path_kind import wrong_kind
from runtime.startup.claims import DONE_NAME, FAILED_NAME
from runtime.startup.claims import FOLDER_NAME as ATTEMPTS_NAME
from runtime.telemetry import loss_curve, step_timeline
from runtime.telemetry.records import EVENTS_NAME, RANKS_NAME, STEPS_NAME

_FOLDERS = (CHECKPOINTS_NAME, ATTEMPTS_NAME, RANKS_NAME, EVENTS_NAME)
_FILES = (
    *(DONE_NAME, FAILED_NAME, STEPS_NAME, TOKENIZER_NAME, "strategy.yaml", "plan.json", "ds_config.json"),
    *(loss_curve.PICTURE_NAME, step_timeline.PICTURE_NAME, step_timeline.TRACE_NAME),
)


def find_folder_problems(run_folder: Path) -> tuple[Problem, ...]:
    """What keeps a run from using its folder; nothing is changed in it."""
    try:
        found = wrong_kind(run_folder, is_folder=True)
        if found is not None:
            return (_not_usable(run_folder, found),)
        if not run_folder.exists():
            return tuple(_not_writable(_nearest(run_folder), run_folder))
        problems = [*_not_writable(run_folder, run_folder)]
        for names, is_folder in ((_FOLDERS, True), (_FILES, False)):
            for path in (run_folder / name for name in names):
                found = wrong_kind(path, is_folder=is_folder)
                if found is not None:
                    problems.append(_not_usable(path, found))
                elif is_folder and path.exists():
                    problems += _not_writable(path, path)
        if (run_folder / RANKS_NAME).is_dir():
            for path in sorted((run_folder / RANKS_NAME).glob("rank-*.jsonl")):
                found = wrong_kind(path, is_folder=False)
                problems += [] if found is None else [_not_usable(path, found)]
    except OSError as error:
        return (_cannot_write(run_folder, error),)
    return tuple(problems)


def _nearest(path: Path) -> Path:
    """The nearest folder above that exists, or what is in its place."""
    return next(above for above in path.parents if os.path.lexists(above))


def _not_writable(folder: Path, meant: Path) -> Iterator[Problem]:
    """Tried by making a folder: permissions do not show a read-only file system, or a full one."""
    found = wrong_kind(folder, is_folder=True)
    if found is not None:
        yield _not_usable(folder, found)
        return
    try:
        Path(tempfile.mkdtemp(prefix=".tmp-can-write-", dir=folder)).rmdir()
    except OSError as error:
        yield _cannot_write(meant, error)


def _cannot_write(folder: Path, error: OSError) -> Problem:
    return Problem(
        code="SW644",
        path="output.folder",
        found=f"{folder} cannot be written: {(error.strerror or str(error)).lower()}",
        expected="a folder that this user may write, on a disk with free space",
        fix="correct its permissions, or set output.folder to another folder",
    )


def _not_usable(path: Path, found: str) -> Problem:
    return Problem(
        code="SW643",
        path="output.folder",
        found=f"{path} is {found}",
        expected="what a run writes under this name, or nothing",
        fix=f"restore it, or move it aside: mv {path} {path}.aside",
    )
