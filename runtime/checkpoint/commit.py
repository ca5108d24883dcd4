"""Atomic commit of a checkpoint, its retention, and the choice of the one to load.

    step-00000100/            a complete checkpoint; a folder of this name is never written into
    latest                    the name of the newest one
    .tmp-step-00000200-ID/    being written; useless if its writer was killed
    .replaced-step-…-ID/      the previous version of a step, until the new one is in its place
    .trash-step-…-ID/         being deleted
    abandoned-step-…-ID/      checkpoints after the step the run was rolled back to; kept for the user

Checkpoints appear and disappear by a rename, so a kill leaves no partial folder under a name that counts.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from pathlib import Path

from planner.files import fsync_folder, replace
from runtime.checkpoint.manifest import MANIFEST_NAME, CheckpointError
from runtime.files.path_kind import wrong_kind

LATEST_NAME, FOLDER_NAME = "latest", "checkpoints"
_LONGEST_NAME = 255  # bytes, of a file on the usual file systems
_STEP = re.compile(r"step-(\d{8,})")
_REPLACED = re.compile(r"\.replaced-step-(\d{8,})-.*")

logger = logging.getLogger(__name__)


def step_name(step: int) -> str:
    """The name of a step's folder."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int | None:
    """The step that a folder's name says; None for a folder of another name."""
    match = _STEP.fullmatch(folder.name)
    return int(match[1]) if match else None


def begin(folder: Path, step: int) -> Path:
    """A new folder to write a step into; leftovers of killed writers are deleted first."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in (*folder.glob(".tmp-*"), *folder.glob(".trash-*")):
        delete_folder(leftover)
    temporary = folder / f".tmp-{step_name(step)}-{_new_id()}"
    temporary.mkdir()
    return temporary


def publish(temporary: Path, step: int) -> None:
    """Make a completely written folder the step's checkpoint, and `latest` its name."""
    folder = temporary.parent
    target = folder / step_name(step)
    fsync_folder(temporary)
    if target.exists():
        # Two renames, not one: a kill between them leaves the previous version, which `candidates` finds.
        target.rename(folder / f".replaced-{target.name}-{_new_id()}")
    temporary.rename(target)
    fsync_folder(folder)
    latest = folder / LATEST_NAME
    if (
        latest.is_dir() and not latest.is_symlink()
    ):  # nothing that this program wrote; a file replaces the rest
        aside = latest.with_name(f"{LATEST_NAME}.aside-{_new_id()}")
        latest.rename(aside)
        logger.warning("SW819 %s was a folder: it is set aside as %s", latest, aside.name)
    replace(latest, f"{target.name}\n".encode())


def prune(folder: Path, step: int, *, keep_last: int | None, keep_every: int | None) -> None:
    """After `step` was published: keep the newest `keep_last` (None: all) and every multiple of `keep_every`.

    Checkpoints after `step` remain from before the run was rolled back to an earlier step. They are set
    aside: skipping a damaged checkpoint must not end at one of them.
    """
    steps = _steps(folder)
    for beyond in sorted(number for number in steps if number > step):
        aside = folder / f"abandoned-{steps.pop(beyond).name}-{_new_id()}"
        (folder / step_name(beyond)).rename(aside)
        logger.warning(
            "SW816 the run was rolled back to before step %d: that checkpoint is set aside as %s",
            beyond,
            aside,
        )
    kept = set(steps) if keep_last is None else set(sorted(steps)[-keep_last:])
    if keep_every is not None:
        kept |= {number for number in steps if number % keep_every == 0}
    for path in (*folder.glob(".replaced-*"), *(steps[number] for number in sorted(set(steps) - kept))):
        trash = folder / f".trash-{path.name.removeprefix('.')}-{_new_id()}"
        path.rename(trash)
        delete_folder(trash)


def candidates(folder: Path) -> tuple[Path, ...]:
    """The checkpoints to try, in order: the one `latest` names, then the others from newest to oldest.

    `folder` may be a folder of checkpoints, a run, or one checkpoint (then it is the only candidate). A
    `latest` that names no checkpoint, or cannot be read, gives a warning.

    Raises:
        CheckpointError: if something else is in the folder's place, where checkpoints may be unseen.
    """
    if (folder / MANIFEST_NAME).exists() or _STEP.fullmatch(folder.name):
        return (folder,) if folder.is_dir() else ()
    if os.path.lexists(folder / FOLDER_NAME):
        folder = folder / FOLDER_NAME
    found = _replaced(folder) | _steps(folder)
    if not found:
        return ()
    order = sorted(found, reverse=True)
    named = _named_by_latest(folder)
    if named in found:
        order = [named, *(step for step in order if step != named)]
    else:
        logger.warning(
            "SW807 %s does not name a checkpoint; using the highest step, %s",
            folder / LATEST_NAME,
            found[order[0]].name,
        )
    return tuple(found[step] for step in order)


def newest_step(folder: Path) -> int | None:
    """The highest step with a checkpoint in `folder`, by name only; None if none is seen."""
    return max(saved_steps(folder), default=None)


def saved_steps(folder: Path) -> list[int]:
    """The steps with a checkpoint in `folder`, by name only, in ascending order."""
    try:
        return sorted(_steps(folder))
    except CheckpointError:
        return []  # whoever reads a checkpoint is told


def delete_folder(path: Path) -> None:
    """Delete a folder that is no longer needed; if it cannot be deleted it stays, with a warning."""
    try:
        shutil.rmtree(path)
    except OSError as error:
        logger.warning("SW815 %s could not be deleted: %s", path, error)


def _named_by_latest(folder: Path) -> int | None:
    latest = folder / LATEST_NAME
    try:
        if not latest.is_file():  # a folder, a link to itself, a device without end
            return None
        with latest.open("rb") as file:
            text = file.read(_LONGEST_NAME + 1).decode(errors="replace")
    except OSError:
        return None
    match = _STEP.fullmatch(text.rstrip("\n")) if len(text) <= _LONGEST_NAME else None
    return int(match[1]) if match else None


def _steps(folder: Path) -> dict[int, Path]:
    return _matching(folder, _STEP)


def _replaced(folder: Path) -> dict[int, Path]:
    return _matching(folder, _REPLACED)


def _matching(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    found = wrong_kind(folder, is_folder=True)
    if found is not None:
        raise CheckpointError("SW818", f"{folder} is {found}: checkpoints that are there are not seen")
    if not folder.exists():
        return {}
    matches = ((pattern.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return {int(match[1]): path for match, path in matches if match and path.is_dir()}


def _new_id() -> str:
    return uuid.uuid4().hex[:8]
