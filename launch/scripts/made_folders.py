"""Folders created on the way to another one, and removed again if it could not be used."""

import contextlib
from collections.abc import Iterable
from pathlib import Path


def missing(folder: Path) -> list[Path]:
    """The folder and those of its parents that do not exist yet, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those that are empty, in the given order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
