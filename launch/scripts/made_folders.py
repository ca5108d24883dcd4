"""Folders that are made on the way to another, and taken back when that comes to nothing."""

import contextlib
from collections.abc import Iterable
from pathlib import Path


def missing(folder: Path) -> list[Path]:
    """The folder and its parents that are not there yet, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those in which nothing is, in their order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
