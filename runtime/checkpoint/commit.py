"""Decides how a checkpoint appears in its folder, whole and at one instant, and how old ones leave it.

    step-00000100/            a whole checkpoint: folders of this name are never written into
    latest                    the name of the newest one
    .tmp-step-00000200-ID/    being written; of no worth if its writer was killed
    .replaced-step-…-ID/      an older writing of a step, until the new one is in its place
    .trash-step-…-ID/         being deleted
    abandoned-step-…-ID/      of a future that was given up: the run went on from before it; left to its owner

Everything becomes visible or leaves by a rename, so a kill leaves nothing half done under a name that counts.
"""

from __future__ import annotations

import logging
import re
import shutil
import uuid
from pathlib import Path

from planner.files import fsync_folder, replace
from runtime.checkpoint.manifest import MANIFEST_NAME

LATEST_NAME = "latest"
_STEP = re.compile(r"step-(\d{8,})")
_REPLACED = re.compile(r"\.replaced-step-(\d{8,})-.*")

logger = logging.getLogger(__name__)


def step_name(step: int) -> str:
    """The name of a step's folder."""
    return f"step-{step:08d}"


def begin(folder: Path, step: int) -> Path:
    """A new folder to write a step into; what killed writers left is removed first, to free its space."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in (*folder.glob(".tmp-*"), *folder.glob(".trash-*")):
        delete_folder(leftover)
    temporary = folder / f".tmp-{step_name(step)}-{_new_id()}"
    temporary.mkdir()
    return temporary


def publish(temporary: Path, step: int) -> None:
    """Make a fully written folder the step's checkpoint, and the newest one."""
    folder = temporary.parent
    target = folder / step_name(step)
    fsync_folder(temporary)
    if target.exists():
        # Two renames, not one: a kill between them leaves the older writing, which `candidates` finds.
        target.rename(folder / f".replaced-{target.name}-{_new_id()}")
    temporary.rename(target)
    fsync_folder(folder)
    replace(folder / LATEST_NAME, f"{target.name}\n".encode())


def prune(folder: Path, step: int, *, keep_last: int | None, keep_every: int | None) -> None:
    """After `step` was published: keep the newest `keep_last` (None: all) and every multiple of `keep_every`.

    Checkpoints beyond `step` are of a future that this run gave up when it went back to an earlier step; they
    are set aside, because the fall-back from a damaged checkpoint must not meet them.
    """
    steps = _steps(folder)
    for beyond in sorted(number for number in steps if number > step):
        aside = folder / f"abandoned-{steps.pop(beyond).name}-{_new_id()}"
        (folder / step_name(beyond)).rename(aside)
        logger.warning(
            "the run went on from before step %d: its checkpoint is set aside as %s", beyond, aside
        )
    kept = set(steps) if keep_last is None else set(sorted(steps)[-keep_last:])
    if keep_every is not None:
        kept |= {number for number in steps if number % keep_every == 0}
    for path in (*folder.glob(".replaced-*"), *(steps[number] for number in sorted(set(steps) - kept))):
        trash = folder / f".trash-{path.name.removeprefix('.')}-{_new_id()}"
        path.rename(trash)
        delete_folder(trash)


def candidates(folder: Path) -> tuple[Path, ...]:
    """The checkpoints to try, best first: the one `latest` names, then the others from the newest back.

    `folder` may also be a run (its checkpoints are meant) or one checkpoint (only that is meant). A `latest`
    that names nothing is reported as a warning.
    """
    if (folder / MANIFEST_NAME).exists() or _STEP.fullmatch(folder.name):
        return (folder,) if folder.is_dir() else ()
    if (folder / "checkpoints").is_dir():
        folder = folder / "checkpoints"
    found = _replaced(folder) | _steps(folder)
    if not found:
        return ()
    order = sorted(found, reverse=True)
    named = _named_by_latest(folder)
    if named in found:
        order = [named, *(step for step in order if step != named)]
    else:
        logger.warning(
            "%s does not name a checkpoint: going by their numbers instead, %s is the newest",
            folder / LATEST_NAME,
            found[order[0]].name,
        )
    return tuple(found[step] for step in order)


def newest_step(folder: Path) -> int | None:
    """The highest step that has a checkpoint in `folder`, by its name alone; None where there is none."""
    return max(_steps(folder), default=None)


def delete_folder(path: Path) -> None:
    """Delete a folder that no longer counts; what cannot be deleted is left, with a warning."""
    try:
        shutil.rmtree(path)
    except OSError as error:
        logger.warning("%s could not be deleted: %s", path, error)


def _named_by_latest(folder: Path) -> int | None:
    try:
        text = (folder / LATEST_NAME).read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return None
    match = _STEP.fullmatch(text.rstrip("\n"))
    return int(match[1]) if match else None


def _steps(folder: Path) -> dict[int, Path]:
    return _matching(folder, _STEP)


def _replaced(folder: Path) -> dict[int, Path]:
    return _matching(folder, _REPLACED)


def _matching(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    matches = ((pattern.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return {int(match[1]): path for match, path in matches if match and path.is_dir()}


def _new_id() -> str:
    return uuid.uuid4().hex[:8]
