"""Kind of a path: whether what has a name is the file or the folder that this program would write there."""

import errno
import stat
from pathlib import Path


def wrong_kind(path: Path, *, is_folder: bool) -> str | None:
    """What is at a path in words, where it is no folder (no file); None if it is one, or there is nothing.

    Raises:
        OSError: if that cannot be seen.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a dangling link" if path.is_symlink() else None
    except NotADirectoryError:
        return "below something that is not a folder"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return "a link to itself"
    if stat.S_ISDIR(mode) if is_folder else stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return "a folder, not a file"
    return "a file, not a folder" if stat.S_ISREG(mode) else "neither a file nor a folder"
