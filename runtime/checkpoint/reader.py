"""Decides how any part of any tensor is read out of a checkpoint, whatever pieces it was written in."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from runtime.checkpoint.manifest import CheckpointError, CheckpointInfo, StoredPiece, StoredTensor, uncovered
from runtime.checkpoint.safetensors_writer import DTYPE_NAMES
from runtime.checkpoint.tensor_slices import (
    TensorSlice,
    full_slice,
    index_within,
    intersect,
    is_within,
    split_flat_range,
)

DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


def read_weights(info: CheckpointInfo) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the model, whole, by its global name; one at a time in memory."""
    with Reader(info) as reader:
        for name, kinds in info.manifest.tensors.items():
            if "weight" in kinds:
                yield name, reader.read(name, "weight")


class Reader:
    """Reads any part of any tensor of a checkpoint, whatever pieces it was written in.

    Holds the files open; memory is the tensor asked for and one slice on its way. Close it, or use it as a
    context. The files' hashes are taken as verified.
    """

    def __init__(self, info: CheckpointInfo) -> None:
        self._info = info
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
        kinds = self._info.manifest.tensors.get(name, {})
        if kind not in kinds:
            has = f"only its {', '.join(sorted(kinds))}" if kinds else "no tensor of that name"
            raise CheckpointError(f"{self._info.folder}: no {kind} of {name}: the checkpoint has {has}")
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
        """A slice of the global tensor (offsets and shape; None: all of it), in the dtype it was written in.

        With `flat` = (start, stop), that range of the flattened slice, as a vector.

        Raises:
            CheckpointError: if the tensor is not there, has another shape, or a part is in no file.
        """
        stored = self.stored(name, kind)
        assert (offsets is None) == (shape is None), "a slice is offsets and a shape"
        if offsets is None or shape is None:
            asked = full_slice(stored.shape)
        else:
            asked = TensorSlice(offsets, shape)
        where = f"{self._info.folder}: {name} ({kind}) {asked}"
        if not is_within(asked, full_slice(stored.shape)):
            raise CheckpointError(f"{where}: the checkpoint's tensor has the shape {list(stored.shape)}")
        assert flat is None or 0 <= flat[0] <= flat[1] <= asked.num_elements, f"{where}: flat {flat}"

        out = torch.empty(
            asked.num_elements if flat is None else flat[1] - flat[0], dtype=DTYPES[stored.dtype]
        )
        num_filled = position = 0
        for want in split_flat_range(asked, flat):
            target = out[position : position + want.num_elements].view(want.shape)
            position += want.num_elements
            for piece in stored.pieces:
                if intersect(piece.tensor_slice, want) is not None:
                    num_filled += self._copy(piece, want, target)
        if num_filled != out.numel():
            missing = uncovered(split_flat_range(asked, flat), stored.pieces)
            raise CheckpointError(f"{where}: no file holds {', '.join(map(str, missing[:3]))}")
        return out.view(asked.shape) if flat is None else out

    def _copy(self, piece: StoredPiece, want: TensorSlice, target: Tensor) -> int:
        """Copy what `piece` has of `want` into `target`, which is `want`; returns the elements copied."""
        num_copied = start = 0
        for have in split_flat_range(piece.tensor_slice, piece.flat):
            common = intersect(want, have)
            if common is not None:
                source = self._slice(piece, have, common, start)
                target[index_within(common, want)].copy_(source)
                num_copied += common.num_elements
            start += have.num_elements
        return num_copied

    def _slice(self, piece: StoredPiece, have: TensorSlice, common: TensorSlice, start: int) -> Tensor:
        """The elements `common` out of `have`, a part of `piece` that begins `start` elements into it."""
        path = self._info.folder / piece.file
        try:
            if piece.file not in self._files:
                self._files[piece.file] = safe_open(path, framework="pt")
            stored = self._files[piece.file].get_slice(piece.key)
            if piece.flat is None:
                return stored[index_within(common, have)]
            if not have.shape:
                return stored[start : start + 1].view(())
            # Rows of a part are a run of its vector; the other dims are cut when only these rows are read.
            row = prod(have.shape[1:])
            rows = TensorSlice((common.offsets[0], *have.offsets[1:]), (common.shape[0], *have.shape[1:]))
            begin = start + (common.offsets[0] - have.offsets[0]) * row
            return stored[begin : begin + rows.num_elements].view(rows.shape)[index_within(common, rows)]
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: {piece.key} cannot be read: {error}") from error
