"""Growing files of JSON lines, read from where the last look ended."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.files import open_file

_CHUNK_BYTES = 1 << 22


class LineTail:
    """The lines of one file, each once, whoever appends to it meanwhile.

    A line that is being written, or that a kill has cut off, waits until it is complete. A file that has
    become shorter, or another one in its place, is read from its start.

    Args:
        tail_bytes: begin so many bytes before the end; None: at the start.
    """

    def __init__(self, path: Path, *, tail_bytes: int | None = None) -> None:
        self._path, self._tail_bytes = path, tail_bytes
        self._offset = 0
        self._inode: int | None = None
        self._rest = b""
        self.exists = False
        self.num_damaged = 0
        self.was_replaced = False

    @property
    def is_torn(self) -> bool:
        """Whether the file ends within a line."""
        return bool(self._rest)

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines since the last call that are JSON objects; what else is there is counted as damaged."""
        try:
            with open_file(self._path) as file:
                stat = self._path.stat()
                self.exists = True
                self._find_start(stat.st_ino, stat.st_size)
                file.seek(self._offset)
                while chunk := file.read(_CHUNK_BYTES):
                    self._offset += len(chunk)
                    *lines, self._rest = (self._rest + chunk).split(b"\n")
                    for line in lines:
                        yield from self._parse(line)
        except OSError:
            self.exists = False

    def _find_start(self, inode: int, size: int) -> None:
        is_new = self._inode is not None and (inode != self._inode or size < self._offset)
        self.was_replaced |= is_new
        if self._inode is None or is_new:
            self._inode, self._rest, self._offset = inode, b"", 0
            if self._tail_bytes is not None and size > self._tail_bytes:
                self._offset = size - self._tail_bytes
                self._skips_first = True
                return
        self._skips_first = False

    def _parse(self, line: bytes) -> Iterator[dict[str, Any]]:
        if self._skips_first:  # most likely the end of one
            self._skips_first = False
            return
        if not line.strip():
            return
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict):
            yield content
        else:
            self.num_damaged += 1
