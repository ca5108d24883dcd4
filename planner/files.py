"""Files: atomic writes, complete or not there whatever kills the writer; bounded reads; hashes."""

import errno
import hashlib
import json
import os
import select
import stat
from pathlib import Path
from typing import Any, BinaryIO

BLOCK_BYTES = 1 << 20
PIPE_WAIT_S = 30.0  # for the next byte: a pipe may be the output of a slow program


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
    """Give `path` new content: a reader, or a kill at any moment, sees the old or the new, not a mix.

    Raises:
        OSError: if it cannot be written, or is a device or a pipe, which a rename would remove.
    """
    if path.exists() and not (path.is_file() or path.is_dir() or path.is_symlink()):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file", str(path))
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    fsync_folder(path.parent)


def open_file(path: Path) -> BinaryIO:
    """An ordinary file for reading: a pipe would wait for its writer, and a device may have no end.

    Raises:
        OSError: if it is anything else, or cannot be read.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is not an ordinary file", str(path))


def read_file(path: Path) -> bytes:
    """The content of an ordinary file.

    Raises:
        OSError: as `open_file`.
    """
    with open_file(path) as file:
        return file.read()


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in an ordinary file; an empty one where there is none, or it cannot be read."""
    try:
        content = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_limited(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The content of a file that a user names: neither /dev/zero nor a pipe without a writer is endless.

    Raises:
        OSError: if it cannot be read, is larger, or is a pipe to which nobody writes for PIPE_WAIT_S.
        ValueError: if the path has a zero character.
    """
    content = bytearray()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
        arrival = select.poll()
        arrival.register(file, select.POLLIN)
        while len(content) <= max_bytes:
            # A pipe that no writer has opened yet reads as if it were at its end.
            if is_pipe and not arrival.poll(PIPE_WAIT_S * 1000):
                raise OSError(errno.ETIMEDOUT, f"nothing was written to this pipe for {PIPE_WAIT_S:g} s")
            block = file.read(max_bytes + 1 - len(content))
            if block is None:  # a terminal on which nothing was typed yet
                if not arrival.poll(PIPE_WAIT_S * 1000):
                    raise OSError(errno.ETIMEDOUT, f"nothing was written to it for {PIPE_WAIT_S:g} s")
                continue
            if not block:
                return bytes(content)
            content += block
    raise OSError(errno.EFBIG, f"it is larger than {max_bytes:,} bytes")


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
