"""Atomic file writes and file hashes: a file is complete or not there, whatever kills the writer."""

import errno
import hashlib
import os
from pathlib import Path

BLOCK_BYTES = 1 << 20


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` (creations, renames) as durable as the files behind them."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, content: bytes) -> None:
    """Create `path` with `content`, on disk when this returns.

    Raises:
        FileExistsError: if `path` exists.
    """
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fsync_folder(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Give `path` new content: a reader, or a kill at any moment, sees the old or the new, not a mix."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    fsync_folder(path.parent)


def read_limited(path: Path, max_bytes: int) -> str:
    """The text of a file in UTF-8, which /dev/zero in its place does not make endless.

    Raises:
        OSError: if it cannot be read, or is larger.
        UnicodeDecodeError: if it is not UTF-8 text.
    """
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes:,} bytes")
    return content.decode("utf-8")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal, read in blocks.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
