"""Rows of a global batch: sequences of tokens with what is padding, a document's beginning, a target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# B sequences of the batch, S positions of each; a row has S + 1 tokens


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts of a global batch, known before its first backward: the divisors of a step's sums.

    num_targets: tokens to predict, of the cross-entropy. num_tokens: positions that are not padding, of the
    z-loss. num_sequences: those that have such a position, of the aux loss. num_pairs: pairs of a token and
    one that it attends to, in one layer, for FLOPs.
    """

    num_targets: int
    num_tokens: int
    num_sequences: int
    num_pairs: int

    @property
    def loss_divisor(self) -> int:
        """The targets; the loss of a batch without any is 0."""
        return max(1, self.num_targets)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some sequences: position t of tokens_BS1, int64 [B, S + 1], predicts token t + 1.

    mask_BS: False where position t is padding; None: nowhere.
    positions_BS: int64, 0 where a document begins; None: a sequence is one document for attention. Padding is
    a document of its own.
    has_target_BS: False where token t + 1 is not to be predicted; None: every token is, except padding.
    """

    tokens_BS1: np.ndarray
    mask_BS: np.ndarray | None = None
    positions_BS: np.ndarray | None = None
    has_target_BS: np.ndarray | None = None

    def totals(self) -> Totals:
        """The counts, if these rows are a complete global batch."""
        num_sequences, num_positions = self.tokens_BS1.shape[0], self.tokens_BS1.shape[1] - 1
        num_tokens = num_sequences * num_positions
        mask_BS = self.mask_BS
        if mask_BS is not None:
            num_sequences, num_tokens = int(mask_BS.any(1).sum()), int(mask_BS.sum())
        num_targets = num_tokens
        if self.has_target_BS is not None:
            is_target_BS = self.has_target_BS if mask_BS is None else self.has_target_BS & mask_BS
            num_targets = int(is_target_BS.sum())
        positions_BS = self.positions_BS
        if positions_BS is None:
            positions_BS = np.broadcast_to(np.arange(num_positions), (len(self.tokens_BS1), num_positions))
        num_pairs = int((positions_BS + 1).sum(where=True if mask_BS is None else mask_BS))
        return Totals(
            num_targets=num_targets, num_tokens=num_tokens, num_sequences=num_sequences, num_pairs=num_pairs
        )

    def part(self, rows: slice) -> Rows:
        """Some of the sequences."""
        return Rows(
            tokens_BS1=self.tokens_BS1[rows],
            mask_BS=None if self.mask_BS is None else self.mask_BS[rows],
            positions_BS=None if self.positions_BS is None else self.positions_BS[rows],
            has_target_BS=None if self.has_target_BS is None else self.has_target_BS[rows],
        )

    def padded_to(self, num_sequences: int) -> Rows:
        """With sequences that are all padding behind them, `num_sequences` in all."""
        num_found, width = self.tokens_BS1.shape
        if num_found == num_sequences:
            return self
        added = (num_sequences - num_found, width - 1)
        mask_BS = np.ones((num_found, width - 1), bool) if self.mask_BS is None else self.mask_BS
        positions_BS, has_target_BS = self.positions_BS, self.has_target_BS
        if positions_BS is not None:
            positions_BS = np.concatenate([positions_BS, np.broadcast_to(np.arange(width - 1), added)])
        if has_target_BS is not None:
            has_target_BS = np.concatenate([has_target_BS, np.zeros(added, bool)])
        return Rows(
            tokens_BS1=np.concatenate([self.tokens_BS1, np.zeros((added[0], width), np.int64)]),
            mask_BS=np.concatenate([mask_BS, np.zeros(added, bool)]),
            positions_BS=positions_BS,
            has_target_BS=has_target_BS,
        )
