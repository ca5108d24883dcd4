"""Reading of any slice of any tensor of a checkpoint, whatever layout wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import cast

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
    """Every full weight of the model by its global name; one at a time in memory."""
    with Reader(info) as reader:
        for name, kinds in info.manifest.tensors.items():
            if "weight" in kinds:
                yield name, reader.read(name, "weight")


class Reader:
    """Reads any slice of any tensor of a checkpoint, whatever layout wrote it.

    Keeps the files open; needs memory for the result and one stored slice. Close it, or use it as a context
    manager. It does not verify the files' hashes.
    """

    def __init__(self, info: CheckpointInfo) -> None:
        self._info = info
        self._files: dict[str, safe_open] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._files.clear()

    def stored(self, name: str, kind: str) -> StoredTensor:
        """The tensor of this name and kind.

        Raises:
            CheckpointError: if the checkpoint holds no such tensor.
        """
        kinds = self._info.manifest.tensors.get(name, {})
        if kind not in kinds:
            has = f"only its {', '.join(sorted(kinds))}" if kinds else "no tensor of that name"
            where = f"{self._info.folder}: no {kind} of {name}"
            raise CheckpointError("SW808", f"{where}: the checkpoint has {has}")
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
            CheckpointError: if the tensor is missing, has another shape, or a part of it is in no file.
        """
        stored = self.stored(name, kind)
        assert (offsets is None) == (shape is None), "a slice is offsets and a shape"
        if offsets is None or shape is None:
            asked = full_slice(stored.shape)
        else:
            asked = TensorSlice(offsets, shape)
        where = f"{self._info.folder}: {name} ({kind}) {asked}"
        if not is_within(asked, full_slice(stored.shape)):
            raise CheckpointError("SW808", f"{where}: the stored tensor has shape {list(stored.shape)}")
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
            raise CheckpointError("SW808", f"{where}: no file holds {', '.join(map(str, missing[:3]))}")
        return out.view(asked.shape) if flat is None else out

    def _copy(self, piece: StoredPiece, want: TensorSlice, target: Tensor) -> int:
        """Copy the overlap of `piece` and `want` into `target`, a tensor of `want`; returns its elements."""
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
        """The elements `common` of `have`, a part of `piece` that begins `start` elements into it."""
        path = self._info.folder / piece.file
        try:
            if piece.file not in self._files:
                self._files[piece.file] = safe_open(path, framework="pt")
            stored = self._files[piece.file].get_slice(piece.key)
            if piece.flat is None:
                return cast("Tensor", stored[index_within(common, have)])
            if not have.shape:
                return cast("Tensor", stored[start : start + 1]).view(())
            # Rows of a part are one run of the stored vector; the other dims are sliced after reading them.
            row = prod(have.shape[1:])
            rows = TensorSlice((common.offsets[0], *have.offsets[1:]), (common.shape[0], *have.shape[1:]))
            begin = start + (common.offsets[0] - have.offsets[0]) * row
            run = cast("Tensor", stored[begin : begin + rows.num_elements])
            return run.view(rows.shape)[index_within(common, rows)]
        except (OSError, SafetensorError) as error:
            raise CheckpointError("SW809", f"{path}: {piece.key} cannot be read: {error}") from error
