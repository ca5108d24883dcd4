"""Micro-batches of one rank: its rows of a global batch as tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from planner import Batch, Stage
from runtime.data.rows import Rows

ReadRows = Callable[[slice], Rows]
ReadExperts = Callable[[slice], np.ndarray]  # of sequences of the global batch; int64 [B, S, K]


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One rank's input of one pass; the fields are those of `Rows`.

    forced_BSK: the experts of each token, int64; None: the routers choose.
    """

    tokens_BS1: Tensor
    mask_BS: Tensor | None = None
    positions_BS: Tensor | None = None
    has_target_BS: Tensor | None = None
    forced_BSK: Tensor | None = None

    @classmethod
    def from_rows(cls, rows: Rows, device: torch.device, forced_BSK: np.ndarray | None = None) -> MicroBatch:
        """A copy on the device."""
        return cls(
            tokens_BS1=_to_tensor(rows.tokens_BS1, device),
            mask_BS=None if rows.mask_BS is None else _to_tensor(rows.mask_BS, device),
            positions_BS=None if rows.positions_BS is None else _to_tensor(rows.positions_BS, device),
            has_target_BS=None if rows.has_target_BS is None else _to_tensor(rows.has_target_BS, device),
            forced_BSK=None if forced_BSK is None else _to_tensor(forced_BSK, device),
        )

    def part(self, start: int, stop: int) -> MicroBatch:
        """Some of the sequences."""
        rows = slice(start, stop)
        return MicroBatch(
            tokens_BS1=self.tokens_BS1[rows],
            mask_BS=None if self.mask_BS is None else self.mask_BS[rows],
            positions_BS=None if self.positions_BS is None else self.positions_BS[rows],
            has_target_BS=None if self.has_target_BS is None else self.has_target_BS[rows],
            forced_BSK=None if self.forced_BSK is None else self.forced_BSK[rows],
        )

    @property
    def num_sequences(self) -> int:
        return len(self.tokens_BS1)

    @property
    def targets(self) -> Tensor:
        """The token that each position predicts, [B, S]; -100 where none."""
        targets_BS = self.tokens_BS1[:, 1:]
        if self.has_target_BS is None:
            return targets_BS
        return targets_BS.masked_fill(~self.has_target_BS, -100)


def training_batches(
    rows: ReadRows,
    batch: Batch,
    stage: Stage,
    data_rank: int,
    device: torch.device,
    forced: ReadExperts | None = None,
) -> list[MicroBatch]:
    """This rank's micro-batches of one global batch: micro-step m has the same sequences in every stage.

    Args:
        rows: reads rows of the global batch.
        data_rank: the rank in its `data` group.
        forced: reads the experts of the same rows; None: the routers choose.
    """
    size = batch.micro_batch_of(stage)
    width = size * stage.dense.size("data")
    starts = range(data_rank * size, batch.global_batch, width)
    forced = forced if stage.layers else None
    return [
        MicroBatch.from_rows(rows(part), device, None if forced is None else forced(part))
        for part in (slice(s, s + size) for s in starts)
    ]


def validation_batches(
    rows: ReadRows, num_sequences: int, batch: Batch, stage: Stage, data_rank: int, device: torch.device
) -> list[MicroBatch]:
    """This rank's share of the validation sequences; incomplete micro-batches are padded and masked."""
    size = batch.micro_batch_of(stage)
    width = size * stage.dense.size("data")
    batches = []
    for first in range(0, num_sequences, width):
        start = min(first + data_rank * size, num_sequences)
        found = rows(slice(start, min(start + size, num_sequences)))
        batches.append(MicroBatch.from_rows(found.padded_to(size), device))
    return batches


def _to_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
