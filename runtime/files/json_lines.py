"""JSON-lines files that survive kills and resumes: appending, and reading the last line of each step.

A line is one write, so that lines of two writers, or of a writer and a kill, never mix. A line that a kill
cut off is ended by the next writer and skipped by readers. When a step was repeated after a resume, its last
line counts.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class LineFileDeletedError(OSError):
    """The file or folder was deleted while it was being written: what is appended would be lost."""

    def __init__(self, deleted: Path) -> None:
        super().__init__(f"SW963 {deleted} was deleted while the run was writing to it")


class LineFile:
    """An append-only file of JSON objects, one per line; created, with its folder, if it does not exist."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            self._write(b"\n")

    def append(self, fields: Mapping[str, Any]) -> None:
        """Add one object as a line.

        JSON has no NaN and no infinity. Such a number becomes null, and the line gets the key `not_finite`,
        which names each by its dotted path: {"loss": null, "not_finite": {"loss": "nan"}}.

        Raises:
            OSError: if the disk does not take the entire line, or the file was deleted.
        """
        not_finite: dict[str, str] = {}
        plain = _finite(fields, "", not_finite)
        if not_finite:
            plain["not_finite"] = not_finite
        self._write(json.dumps(plain, allow_nan=False, separators=(", ", ": ")).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _write(self, line: bytes) -> None:
        if os.fstat(self._descriptor).st_nlink == 0:
            gone = [path for path in (self._path, *self._path.parents) if not path.exists()]
            # The highest folder that is missing, or the file.
            raise LineFileDeletedError(gone[-1] if gone else self._path)
        num_written = os.write(self._descriptor, line)
        if num_written != len(line):
            raise OSError(f"{self._path}: only {num_written} of a line's {len(line)} bytes were written")


def read_steps(path: Path, *, tail_bytes: int | None = None) -> dict[int, dict[str, Any]]:
    """The last line of each step, in the order of the steps; incomplete lines are skipped with a warning.

    Args:
        tail_bytes: read only the complete lines in the last so many bytes; None: the file.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    steps: dict[int, dict[str, Any]] = {}
    with path.open("rb") as file:
        if tail_bytes is not None and path.stat().st_size > tail_bytes:
            file.seek(-tail_bytes, os.SEEK_END)
            file.readline()  # most likely the end of one
        content = file.read()
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line:
            continue
        try:
            fields = json.loads(line)
            steps[int(fields["step"])] = fields
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            logger.warning("SW962 %s:%d is not a complete line of a step; skipped", path, number)
    return dict(sorted(steps.items()))


def _finite(value: Any, path: str, not_finite: dict[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _finite(item, f"{path}.{key}" if path else key, not_finite) for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, str):
        if set(map(type, value)) == {int}:
            return value  # the tokens of a layer's experts: thousands in a line
        return [_finite(item, f"{path}.{index}", not_finite) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        not_finite[path] = str(value)
        return None
    return value
