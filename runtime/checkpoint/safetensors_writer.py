"""Decides how one rank's tensors become a safetensors file."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from planner.files import fsync_folder
from runtime.checkpoint.manifest import Dtype, FileRecord, StoredPiece
from runtime.checkpoint.tensor_slices import TensorSlice, full_slice, is_within

DTYPE_NAMES: dict[torch.dtype, Dtype] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
WRITE_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnedPiece:
    """What one rank holds of a global tensor.

    name, kind: the parameter's global name; "weight", "master", "exp_avg", "exp_avg_sq" or another word.
    global_shape, offsets, shape: the tensor, and the slice of it that belongs to this rank's model.
    flat: None when `tensor` has that shape; (start, stop) when it is that range of the flattened slice, as a
    vector: ZeRO holds such fragments.
    """

    name: str
    kind: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    flat: tuple[int, int] | None = None
    tensor: Tensor

    def __post_init__(self) -> None:
        expected = self.shape if self.flat is None else (self.flat[1] - self.flat[0],)
        assert tuple(self.tensor.shape) == expected, f"{self}: a tensor of shape {tuple(self.tensor.shape)}"
        assert is_within(self.tensor_slice, full_slice(self.global_shape)), (
            f"{self}: outside {self.global_shape}"
        )
        assert self.flat is None or 0 <= self.flat[0] <= self.flat[1] <= prod(self.shape), f"{self}: flat"

    @property
    def tensor_slice(self) -> TensorSlice:
        return TensorSlice(self.offsets, self.shape)

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}) {self.tensor_slice}" + (
            f" elements {self.flat}" if self.flat else ""
        )


@dataclass(frozen=True, kw_only=True)
class WrittenPiece:
    """One piece as rank 0 hears of it: everything but the numbers."""

    name: str
    kind: str
    global_shape: tuple[int, ...]
    dtype: Dtype
    stored: StoredPiece


def write_shard(path: Path, pieces: Sequence[OwnedPiece]) -> tuple[FileRecord, tuple[WrittenPiece, ...]]:
    """Write `pieces` as one safetensors file, on disk when this returns; hashed while it streams.

    safetensors' own writer wants every tensor in memory and its bytes read again for the hash. The format is
    a length, a JSON header and the bytes, so it is written here, one tensor in memory at a time.

    Raises:
        OSError: if the disk does not take it.
    """
    assert sys.byteorder == "little", "safetensors is little-endian; so is every machine this was made for"
    # The widest elements first, as safetensors' own writer has it: then each tensor lies aligned.
    ordered = sorted(pieces, key=lambda piece: -piece.tensor.element_size())
    header: dict[str, object] = {}
    written: list[WrittenPiece] = []
    end = 0
    for piece in ordered:
        key = _free_key(piece, header)
        start, end = end, end + piece.tensor.numel() * piece.tensor.element_size()
        dtype = DTYPE_NAMES[piece.tensor.dtype]
        header[key] = {"dtype": dtype, "shape": list(piece.tensor.shape), "data_offsets": [start, end]}
        stored = StoredPiece(
            offsets=piece.offsets, shape=piece.shape, flat=piece.flat, file=path.name, key=key
        )
        written.append(
            WrittenPiece(
                name=piece.name, kind=piece.kind, global_shape=piece.global_shape, dtype=dtype, stored=stored
            )
        )
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    digest = hashlib.sha256()
    num_bytes = 0
    with path.open("xb", buffering=0) as file:

        def put(data: memoryview) -> None:
            nonlocal num_bytes
            for start in range(0, len(data), WRITE_CHUNK_BYTES):
                chunk = data[start : start + WRITE_CHUNK_BYTES]
                digest.update(chunk)
                while chunk:  # a raw write may take only a part; the next one then says why
                    taken = file.write(chunk)
                    num_bytes += taken
                    chunk = chunk[taken:]

        put(memoryview(len(text).to_bytes(8, "little") + text))
        for piece in ordered:
            put(_bytes_of(piece.tensor))
        os.fsync(file.fileno())
    fsync_folder(path.parent)
    return FileRecord(num_bytes=num_bytes, sha256=digest.hexdigest()), tuple(written)


def _free_key(piece: OwnedPiece, taken: Mapping[str, object]) -> str:
    # Names alone would do, but for what one rank holds twice: two fragments, or a slice and its master.
    key = f"{piece.kind}/{piece.name}"
    count = 1
    while key in taken:
        count += 1
        key = f"{piece.kind}/{piece.name}#{count}"
    return key


def _bytes_of(tensor: Tensor) -> memoryview:
    on_cpu = tensor.detach().cpu().contiguous()
    return memoryview(on_cpu.reshape(-1).view(torch.uint8).numpy())
