"""Header of a safetensors file, compared with what the manifest says is in it; no tensor is read.

A file whose hash is right can still lie, if it and the manifest are of another program: a tensor of another
shape, one that begins where another has not ended, or one beyond the end of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from runtime.checkpoint.manifest import MAX_NUM_ELEMENTS, StoredPiece, shown

# As the safetensors library has it.
MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
ELEMENT_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExpectedPiece:
    """A piece as the manifest has it."""

    piece: StoredPiece
    dtype: str


def find_header_fault(path: Path, expected: Iterable[ExpectedPiece]) -> str | None:
    """What is wrong with the header, or what it has otherwise than the manifest; None if it is right.

    Raises:
        OSError: if the file cannot be read.
    """
    try:
        header, num_data_bytes = _read(path)
        if fault := next(_layout_faults(header, num_data_bytes), None):
            return fault
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"its header is not that of a safetensors file ({type(error).__name__})"
    for wanted in expected:
        piece = wanted.piece
        key = shown(piece.key)
        if piece.key not in header or piece.key == "__metadata__":
            return f"it has no tensor {key}, which the manifest says is in it"
        found = header[piece.key]
        shape = list(piece.shape) if piece.flat is None else [piece.num_elements]
        if found["shape"] != shape or found["dtype"] != wanted.dtype:
            is_there = f"{shown(found['dtype'])} {found['shape']}"
            return f"{key} is {is_there} in it, and {wanted.dtype} {shape} in the manifest"
    return None


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and the number of bytes after it."""
    with path.open("rb") as file:
        num_header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        num_left = path.stat().st_size - _LENGTH_BYTES
        if num_header_bytes > min(num_left, MAX_HEADER_BYTES):
            raise ValueError(f"a header of {num_header_bytes} bytes")
        header = json.loads(file.read(num_header_bytes))
    if not isinstance(header, dict):
        raise TypeError("the header is no mapping")
    return header, num_left - num_header_bytes


def _layout_faults(header: dict[str, Any], num_data_bytes: int) -> Iterator[str]:
    ranges = []
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        dtype, shape = entry["dtype"], entry["shape"]
        numbers = (start, end, *shape)
        if any(type(number) is not int or not 0 <= number <= MAX_NUM_ELEMENTS for number in numbers):
            yield f"{shown(key)} has a shape or offsets that are no counts"
            return
        if not start <= end <= num_data_bytes:
            yield f"{shown(key)} is at bytes {start:,} to {end:,} of {num_data_bytes:,}"
            return
        if end - start != prod(shape) * ELEMENT_BYTES[dtype]:
            yield f"{shown(key)}, {dtype} {shape}, has {end - start:,} bytes"
            return
        ranges.append((start, end, key))
    ranges.sort()
    for (_, end, key), (start, _, after) in pairwise(ranges):
        if start < end:
            yield f"{shown(after)} begins at byte {start:,}, inside {shown(key)}"
            return
