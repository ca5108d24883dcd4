"""Decides how one rank's tensors become a safetensors file, and how slices come back out of such files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from runtime.boxes import Box, inside, is_within, overlap, parts, whole
from runtime.durable import fsync_folder
from runtime.manifest import CheckpointError, FileRecord, Manifest, StoredPiece, StoredTensor, uncovered

logger = logging.getLogger(__name__)

DTYPE_NAMES = {
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
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """What one rank holds of a global tensor.

    name, kind: the parameter's global name; "weight", "master", "exp_avg", "exp_avg_sq" or another word.
    global_shape, offsets, shape: the tensor, and the box of it that belongs to this rank's model.
    flat: None when `tensor` has that shape; (start, stop) when it is that range of the flattened box, as a
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
        assert is_within(self.box, whole(self.global_shape)), f"{self}: outside {self.global_shape}"
        assert self.flat is None or 0 <= self.flat[0] <= self.flat[1] <= prod(self.shape), f"{self}: flat"

    @property
    def box(self) -> Box:
        return Box(self.offsets, self.shape)

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}) {self.box}" + (f" elements {self.flat}" if self.flat else "")


@dataclass(frozen=True, kw_only=True)
class WrittenPiece:
    """One piece as rank 0 hears of it: everything but the numbers."""

    name: str
    kind: str
    global_shape: tuple[int, ...]
    dtype: str
    stored: StoredPiece


def write_shard(
    path: Path, pieces: Sequence[Piece], progress: Callable[[str], None]
) -> tuple[FileRecord, tuple[WrittenPiece, ...]]:
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
            for start in range(0, len(data), CHUNK_BYTES):
                chunk = data[start : start + CHUNK_BYTES]
                digest.update(chunk)
                while chunk:  # a raw write may take only a part; the next one then says why
                    taken = file.write(chunk)
                    num_bytes += taken
                    chunk = chunk[taken:]

        put(memoryview(len(text).to_bytes(8, "little") + text))
        progress("header")
        for index, piece in enumerate(ordered):
            put(_bytes_of(piece.tensor))
            if index == len(ordered) // 2:
                progress("half of the data")
        progress("data")
        os.fsync(file.fileno())
    fsync_folder(path.parent)
    return FileRecord(num_bytes=num_bytes, sha256=digest.hexdigest()), tuple(written)


def sha256_of(path: Path) -> str:
    """The hash of a file's content, read in chunks."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


class Reader:
    """Reads any part of any tensor of a checkpoint, whatever pieces it was written in.

    Holds the files open; memory is the tensor asked for and one slice on its way. Close it, or use it as a
    context. The files' hashes are taken as verified.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._files: dict[str, safe_open] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._files.clear()

    def stored(self, name: str, kind: str) -> StoredTensor:
        """What the checkpoint holds under this name and kind.

        Raises:
            CheckpointError: if it holds no such tensor.
        """
        kinds = self._manifest.tensors.get(name, {})
        if kind not in kinds:
            has = f"only its {', '.join(sorted(kinds))}" if kinds else "no tensor of that name"
            raise CheckpointError(f"{self._folder}: no {kind} of {name}: the checkpoint has {has}")
        return kinds[kind]

    def read(
        self,
        name: str,
        kind: str,
        *,
        offsets: tuple[int, ...] | None = None,
        shape: tuple[int, ...] | None = None,
        flat: tuple[int, int] | None = None,
    ) -> Tensor:
        """A box of the global tensor (offsets and shape; None: all of it), in the dtype it was written in.

        With `flat` = (start, stop), that range of the flattened box, as a vector.

        Raises:
            CheckpointError: if the tensor is not there, has another shape, or a part is in no file.
        """
        stored = self.stored(name, kind)
        assert (offsets is None) == (shape is None), "a box is offsets and a shape"
        box = whole(stored.shape) if offsets is None or shape is None else Box(offsets, shape)
        where = f"{self._folder}: {name} ({kind}) {box}"
        if not is_within(box, whole(stored.shape)):
            raise CheckpointError(f"{where}: the checkpoint's tensor has the shape {list(stored.shape)}")
        assert flat is None or 0 <= flat[0] <= flat[1] <= box.num_elements, f"{where}: flat {flat}"

        out = torch.empty(
            box.num_elements if flat is None else flat[1] - flat[0], dtype=DTYPES[stored.dtype]
        )
        num_filled = position = 0
        for want in parts(box, flat):
            target = out[position : position + want.num_elements].view(want.shape)
            position += want.num_elements
            for piece in stored.pieces:
                if overlap(piece.box, want) is not None:
                    num_filled += self._copy(piece, want, target)
        if num_filled != out.numel():
            missing = uncovered(parts(box, flat), stored.pieces)
            raise CheckpointError(f"{where}: no file holds {', '.join(map(str, missing[:3]))}")
        return out.view(box.shape) if flat is None else out

    def _copy(self, piece: StoredPiece, want: Box, target: Tensor) -> int:
        """Copy what `piece` has of `want` into `target`, which is `want`; returns the elements copied."""
        num_copied = 0
        start = piece.flat[0] if piece.flat is not None else 0
        for have in parts(piece.box, piece.flat):
            common = overlap(want, have)
            if common is not None:
                source = self._slice(piece, have, common, position=start)
                target[inside(common, want)].copy_(source)
                num_copied += common.num_elements
            start += have.num_elements
        return num_copied
