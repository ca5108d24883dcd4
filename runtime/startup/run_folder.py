"""State of a run's folder before training: what a run writes is of the right kind there, and can be written.

A dangling link in the place of `checkpoints/` would otherwise look like a run without checkpoints, and
training would begin again at step 1.
"""

import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from planner import Problem
from planner.run_files import RANKS_NAME, STEPS_NAME, TRACE_NAME
from planner.run_holder import CLAIMS_NAME as ATTEMPTS_NAME
from planner.run_holder import DONE_NAME, FAILED_NAME
from runtime.checkpoint.commit import FOLDER_NAME as CHECKPOINTS_NAME
from runtime.checkpoint.commit import LATEST_NAME, newest_step
from runtime.data.cache import TOKENIZER_NAME
from runtime.files.path_kind import wrong_kind
from runtime.telemetry import loss_curve, step_timeline
from runtime.telemetry.records import EVENTS_NAME

_FOLDERS = (CHECKPOINTS_NAME, ATTEMPTS_NAME, RANKS_NAME, EVENTS_NAME)
_FILES = (
    *(DONE_NAME, FAILED_NAME, STEPS_NAME, TOKENIZER_NAME, "strategy.yaml", "plan.json", "ds_config.json"),
    *(loss_curve.PICTURE_NAME, step_timeline.PICTURE_NAME, TRACE_NAME),
)


# Those that are opened where they are; the others are replaced by a rename.
_OPENED = (STEPS_NAME, TOKENIZER_NAME)


def find_folder_problems(run_folder: Path, resume: str = "auto") -> tuple[Problem, ...]:
    """What keeps a run from using its folder; nothing is changed in it.

    Args:
        resume: `output.resume`; it says from where training starts once the folder is right.
    """
    try:
        found = wrong_kind(run_folder, is_folder=True)
        if found is not None:
            return (_not_usable(run_folder, found, _start_without_checkpoints(resume)),)
        if not run_folder.exists():
            return tuple(_not_writable(_nearest(run_folder), run_folder, resume))
        problems = [*_not_writable(run_folder, run_folder, resume)]
        for path in (run_folder / name for name in _FOLDERS):
            found = wrong_kind(path, is_folder=True)
            if found is not None:
                problems.append(_not_usable(path, found, _start(run_folder, path, resume)))
            elif path.exists():
                problems += _not_writable(path, path, resume)
        for path in _files(run_folder):
            found = wrong_kind(path, is_folder=False)
            is_opened = path.name in _OPENED or path.parent.name == RANKS_NAME
            if found is None and is_opened and path.exists() and not os.access(path, os.R_OK | os.W_OK):
                found = "a file that this user may not read and write"
            if found is not None:
                problems.append(_not_usable(path, found, _start(run_folder, path, resume)))
        problems += _special_file(run_folder, run_folder / CHECKPOINTS_NAME / LATEST_NAME, resume)
    except OSError as error:
        return (_cannot_write(Path(error.filename or run_folder), error),)
    return tuple(problems)


def _files(run_folder: Path) -> Iterator[Path]:
    """Those that a run writes, and what a kill leaves of those that are replaced."""
    for name in _FILES:
        yield run_folder / name
        yield run_folder / f"{name}.tmp"
    if (run_folder / CHECKPOINTS_NAME).is_dir():
        yield run_folder / CHECKPOINTS_NAME / f"{LATEST_NAME}.tmp"
    if (run_folder / RANKS_NAME).is_dir():
        yield from sorted((run_folder / RANKS_NAME).glob("rank-*.jsonl"))


def _special_file(run_folder: Path, latest: Path, resume: str) -> Iterator[Problem]:
    """A device, pipe or socket in the place of `latest`; all else there is replaced or set aside."""
    if not latest.is_symlink() and latest.exists() and not (latest.is_file() or latest.is_dir()):
        yield _not_usable(latest, "neither a file nor a folder", _start(run_folder, latest, resume))


def _start(run_folder: Path, moved: Path, resume: str) -> str:
    """From where training starts once `moved` is out of the way."""
    checkpoints = run_folder / CHECKPOINTS_NAME
    step = None if moved == checkpoints or resume == "never" else newest_step(checkpoints)
    if step is None:
        return _start_without_checkpoints(resume)
    return f"resumes from the newest checkpoint, step {step:,}"


def _start_without_checkpoints(resume: str) -> str:
    if resume in ("auto", "never"):
        return "starts at step 1, because no checkpoint is seen"
    if resume == "require":
        return "is refused, because output.resume is require and no checkpoint is seen"
    return f"starts from output.resume ({resume})"


def _nearest(path: Path) -> Path:
    """The nearest folder above that exists, or what is in its place."""
    return next(above for above in path.parents if os.path.lexists(above))


def _not_writable(folder: Path, meant: Path, resume: str) -> Iterator[Problem]:
    """Tried by making a folder: permissions do not show a read-only file system, or a full one."""
    found = wrong_kind(folder, is_folder=True)
    if found is not None:
        yield _not_usable(folder, found, _start_without_checkpoints(resume))
        return
    try:
        next(os.scandir(folder), None)
        Path(tempfile.mkdtemp(prefix=".tmp-can-write-", dir=folder)).rmdir()
    except OSError as error:
        yield _cannot_write(meant, error)


def _cannot_write(folder: Path, error: OSError) -> Problem:
    return Problem(
        code="SW644",
        path="output.folder",
        found=f"{folder} cannot be read and written: {(error.strerror or str(error)).lower()}",
        expected="a folder that this user may read and write, on a disk with free space",
        fix="correct its permissions, or set output.folder to another folder",
    )


def _not_usable(path: Path, found: str, start: str) -> Problem:
    return Problem(
        code="SW643",
        path="output.folder",
        found=f"{path} is {found}",
        expected="what a run writes under this name, or nothing",
        fix=f"restore it, or move it aside: mv {shlex.quote(str(path))} {shlex.quote(f'{path}.aside')}; "
        f"training then {start}",
    )
