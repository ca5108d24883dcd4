"""A checkpoint written once more as the ranks of another layout would have written it.

No run needs it: every layout reads every checkpoint. But then each rank reads slices of many files; where a
checkpoint moves to another file system, or starts many runs, its files can be those that the ranks read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from planner import Plan
from runtime.checkpoint.manifest import CheckpointError, CheckpointInfo
from runtime.checkpoint.planned_pieces import planned_pieces
from runtime.checkpoint.reader import DTYPES, Reader
from runtime.checkpoint.safetensors_writer import OwnedPiece
from runtime.checkpoint.save_restore import checkpoint_layout
from runtime.checkpoint.store import write_shares


def reshard(info: CheckpointInfo, plan: Plan, out: Path, progress: Callable[[int], None]) -> Path:
    """Writes `info`, whose hashes were verified, into the folder of checkpoints `out`; returns its folder.

    One tensor in memory at a time.

    Args:
        progress: called with each rank whose file is written.

    Raises:
        CheckpointError: if the plan's model needs a tensor that is not in it, or has another shape.
    """
    with Reader(info) as reader:

        def read(piece: OwnedPiece) -> Tensor:
            if piece.name not in info.manifest.tensors:  # a bias that training would begin at zero
                return torch.zeros(piece.shape)
            return reader.read(
                piece.name, piece.kind, offsets=piece.offsets, shape=piece.shape, flat=piece.flat
            )

        def dtype_of(name: str, kind: str) -> torch.dtype:
            if name.endswith(".router.bias") and name not in info.manifest.tensors:
                return torch.float32
            return DTYPES[reader.stored(name, kind).dtype]

        stored = {
            piece.file
            for kinds in info.manifest.tensors.values()
            for t in kinds.values()
            for piece in t.pieces
        }
        files = {name: info.folder / name for name in info.manifest.files if name not in stored}
        wanted = {
            (piece.name, piece.global_shape)
            for stage in plan.stages
            for piece in planned_pieces(plan, stage.dense.first_rank, dtype_of)
        }
        for name, shape in sorted(wanted):
            kinds = info.manifest.tensors.get(name)
            if kinds is not None and kinds["weight"].shape != shape:
                found = f"{list(kinds['weight'].shape)}, the strategy's model has {list(shape)}"
                raise CheckpointError("SW808", f"{info.folder}: {name} has shape {found}")
        shares = ((rank, tuple(planned_pieces(plan, rank, dtype_of))) for rank in range(plan.world_size))
        meta = replace(info.meta, layout=checkpoint_layout(plan))
        return write_shares(out, info.step, shares, meta, files=files, read=read, progress=progress)
