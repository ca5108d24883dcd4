"""The files below a folder, in the same order on every host."""

import os
from collections.abc import Iterator
from pathlib import Path

from runtime.data.saved_dataset import SPLITS, STATE, find_saved_files

# Distributions differ in whether they ship the library's own tests; without them a demo on another machine
# reads much the same text, and half as much (12 of 31 MB in CPython 3.11.7).
NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})


def walk_folder(
    folder: Path,
    errors: list[tuple[Path, OSError]],
    left_out: frozenset[str] = frozenset(),
    above: tuple[tuple[int, int], ...] = (),
) -> Iterator[Path]:
    """The files below `folder`, sorted by path components, without hidden ones and `__pycache__`.

    Links that lead nowhere are included: reading one gives its Problem. A dataset of save_to_disk is its data
    files.

    Args:
        errors: folders that cannot be read are added to it.
        left_out: names of folders.
        above: the identities of the folders above.
    """
    try:
        status = folder.stat()
        identity = status.st_dev, status.st_ino
        if identity in above:  # a link back to a folder above
            return
        with os.scandir(folder) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        errors.append((folder, error))
        return
    if {STATE, SPLITS} & {child.name for child in children}:
        saved = find_saved_files(folder)
        if saved is not None:
            for path in saved:
                if path.is_dir():
                    yield from walk_folder(path, errors, left_out, (*above, identity))
                else:
                    yield path
            return
    for child in children:
        if child.name.startswith(".") or child.name == "__pycache__":
            continue
        path = Path(child.path)
        try:
            is_folder, is_file = child.is_dir(), child.is_file()
        except OSError:  # a link that leads back to itself
            yield path
            continue
        if is_folder:
            if child.name not in left_out:
                yield from walk_folder(path, errors, left_out, (*above, identity))
        elif is_file or leads_nowhere(path):
            yield path


def leads_nowhere(path: Path) -> bool:
    """Whether nothing can be opened there, as at a link to a file that is gone, or back to itself."""
    try:
        path.stat()
    except OSError:
        return True
    return False


def identity_of(file: Path) -> tuple[int, int] | str:
    """Device and inode, by which a file is known that is reached twice; its path if it cannot be opened."""
    try:
        status = file.stat()
    except OSError:
        return str(file)  # `stat_sources` reports it
    return status.st_dev, status.st_ino
