"""Writer of one rank's tensors as a safetensors file, hashed while it streams."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
FLUSH_BYTES = 64 << 20  # written before the disk is asked to take them


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnedPiece:
    """The piece of a global tensor that one rank writes.

    name, kind: the parameter's global name; "weight", "master", "exp_avg", "exp_avg_sq" or another word.
    global_shape, offsets, shape: the tensor, and this rank's slice of it.
    flat: None if `tensor` is that slice; (start, stop) if it is that range of the flattened slice, as a
    vector, which is what ZeRO leaves on a rank.
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
    """A written piece as reported to rank 0, without tensor data."""

    name: str
    kind: str
    global_shape: tuple[int, ...]
    dtype: Dtype
    stored: StoredPiece


def write_shard(
    path: Path,
    pieces: Sequence[OwnedPiece],
    read: Callable[[OwnedPiece], Tensor] = lambda piece: piece.tensor,
) -> tuple[FileRecord, tuple[WrittenPiece, ...]]:
    """Write `pieces` as one safetensors file, on disk when this returns.

    safetensors' own writer needs every tensor in memory and a second pass over the bytes for the hash. The
    format is a length, a JSON header and the bytes, so it is written here, one tensor in memory at a time.

    Args:
        read: the content of a piece, where its own tensor has none (on torch's meta device).

    Raises:
        OSError: if the file cannot be written.
    """
    assert sys.byteorder == "little", "safetensors is little-endian, and so must be the machine"
    # The widest elements first, as in safetensors' own writer, so that each tensor is aligned.
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
    num_bytes = num_flushed = 0
    # Hashing takes as long as writing, and the disk as long again; all three leave the interpreter to others.
    with (
        path.open("xb", buffering=0) as file,
        ThreadPoolExecutor(1, "checkpoint-hash") as hasher,
        ThreadPoolExecutor(1, "checkpoint-flush") as flusher,
    ):
        flush: Future[None] | None = None

        def put(data: memoryview) -> None:
            nonlocal num_bytes, num_flushed, flush
            for start in range(0, len(data), WRITE_CHUNK_BYTES):
                chunk = data[start : start + WRITE_CHUNK_BYTES]
                hashed = hasher.submit(digest.update, chunk)
                while chunk:  # a raw write may be partial; the next one then raises the reason
                    taken = file.write(chunk)
                    num_bytes += taken
                    chunk = chunk[taken:]
                hashed.result()
                if num_bytes - num_flushed >= FLUSH_BYTES and (flush is None or flush.done()):
                    if flush is not None:
                        flush.result()
                    flush, num_flushed = flusher.submit(os.fsync, file.fileno()), num_bytes

        put(memoryview(len(text).to_bytes(8, "little") + text))
        for piece in ordered:
            put(_bytes_of(read(piece)))
        if flush is not None:
            flush.result()  # a fault of the disk is told only to the first who asks
        os.fsync(file.fileno())
    fsync_folder(path.parent)
    return FileRecord(num_bytes=num_bytes, sha256=digest.hexdigest()), tuple(written)


def _free_key(piece: OwnedPiece, taken: Mapping[str, object]) -> str:
    # Unique unless one rank holds two pieces of a tensor: two flat ranges, or a slice and its master.
    key = f"{piece.kind}/{piece.name}"
    count = 1
    while key in taken:
        count += 1
        key = f"{piece.kind}/{piece.name}#{count}"
    return key


def _bytes_of(tensor: Tensor) -> memoryview:
    on_cpu = tensor.detach().cpu().contiguous()
    return memoryview(on_cpu.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
