"""Packing of complete documents into sequences, and reading the packed sequences.

Best-fit decreasing, as in Ding et al. 2024 ("Fewer Truncations Improve Language Modeling"): from the longest
document to the shortest, each goes to the sequence with the least space that it fits into. Only a document
longer than a sequence is cut. What stays empty at a sequence's end is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from runtime.data.rows import Rows, Totals

# N packed sequences, P pieces (documents, or parts of those that are longer than a sequence)


@dataclass(frozen=True, kw_only=True)
class PackedSequences:
    """Which pieces of the token file are in which sequence.

    first_pieces: [N + 1], the number of each sequence's first piece, and P. num_targets, num_tokens,
    num_pairs: [N], as in `Totals`. starts, lengths: [P], tokens of the file; a piece of n tokens has at most
    n - 1 targets.
    """

    first_pieces: np.ndarray
    num_targets: np.ndarray
    num_tokens: np.ndarray
    num_pairs: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @property
    def num_sequences(self) -> int:
        return len(self.num_targets)

    def num_sequences_between(self, first_tokens: Sequence[int]) -> list[int]:
        """The sequences of each part of the token file; a part begins at each of these tokens."""
        if len(first_tokens) == 1:
            return [self.num_sequences]
        starts = self.starts[self.first_pieces[:-1]]
        parts = np.searchsorted(np.asarray(first_tokens), starts, side="right") - 1
        sizes: list[int] = np.bincount(parts, minlength=len(first_tokens)).tolist()
        return sizes

    def totals(self, sequences: np.ndarray) -> Totals:
        """The counts of a global batch of these sequences."""
        return Totals(
            num_targets=int(self.num_targets[sequences].sum()),
            num_tokens=int(self.num_tokens[sequences].sum()),
            num_sequences=len(sequences),
            num_pairs=int(self.num_pairs[sequences].sum()),
        )

    def read(
        self, tokens: np.ndarray, is_target: np.ndarray | None, sequences: np.ndarray, seq_length: int
    ) -> Rows:
        """The rows of these sequences.

        Args:
            tokens: the token file. is_target: one byte for each of its tokens; None: all may be predicted.
        """
        num_rows = len(sequences)
        tokens_BS1 = np.zeros((num_rows, seq_length + 1), np.int64)
        positions_BS1 = np.zeros((num_rows, seq_length + 1), np.int64)
        has_target_BS1 = np.zeros((num_rows, seq_length + 1), bool)
        ends = np.zeros(num_rows, np.int64)
        for row, sequence in enumerate(sequences):
            end = 0
            for piece in range(self.first_pieces[sequence], self.first_pieces[sequence + 1]):
                length, source = int(self.lengths[piece]), int(self.starts[piece])
                here = slice(end, end + length)
                tokens_BS1[row, here] = tokens[source : source + length]
                positions_BS1[row, here] = np.arange(length)
                has_target_BS1[row, end : end + length - 1] = (
                    True if is_target is None else is_target[source + 1 : source + length]
                )
                end += length
            # Padding is a document of its own, so that nothing attends to it.
            positions_BS1[row, end:] = np.arange(seq_length + 1 - end)
            ends[row] = end
        mask_BS = np.arange(seq_length) < ends[:, None]
        return Rows(
            tokens_BS1=tokens_BS1,
            mask_BS=None if mask_BS.all() else mask_BS,
            positions_BS=positions_BS1[:, :-1],
            has_target_BS=has_target_BS1[:, :-1],
        )


def pack_documents(
    document_lengths: np.ndarray, seq_length: int, is_target: np.ndarray | None = None
) -> PackedSequences:
    """Packs documents that follow each other in the token file into sequences of `seq_length` + 1 tokens.

    A longer document is cut into pieces of that many, of which each begins with the last token of the one
    before: as an input, so that every token but the document's first is predicted once. Pieces without a
    target are left out. The result depends on these arguments only.

    Args:
        is_target: one byte for each token of the file; None: all may be predicted.
    """
    starts, lengths = _cut(np.asarray(document_lengths, np.int64), seq_length)
    if is_target is None:
        num_targets = lengths - 1
    else:
        num_before = np.concatenate([[0], np.cumsum(is_target, dtype=np.int64)])
        num_targets = num_before[starts + lengths] - num_before[starts + 1]
    kept = num_targets > 0
    starts, lengths, num_targets = starts[kept], lengths[kept], num_targets[kept]
    sequence_of, num_sequences = best_fit_decreasing(lengths, seq_length + 1)
    order = np.argsort(sequence_of, kind="stable")
    sums = np.zeros((4, num_sequences), np.int64)
    values = (np.ones_like(lengths), num_targets, lengths, lengths * (lengths + 1) // 2)
    for row, value in zip(sums, values, strict=True):
        np.add.at(row, sequence_of, value)
    first_pieces = np.concatenate([[0], np.cumsum(sums[0])])
    starts, lengths = starts[order], lengths[order]
    is_full = sums[2] > seq_length  # the last token is only predicted: it attends to nothing
    return PackedSequences(
        first_pieces=first_pieces,
        num_targets=sums[1],
        num_tokens=sums[2] - is_full,
        num_pairs=sums[3] - is_full * lengths[first_pieces[1:] - 1],
        starts=starts,
        lengths=lengths,
    )


def join_packed(parts: Sequence[PackedSequences], first_tokens: Sequence[int]) -> PackedSequences:
    """The sequences of all parts, one part after the other; each part begins at its token of the file."""
    num_before = np.cumsum([0, *(len(part.starts) for part in parts)])
    first_pieces = [part.first_pieces[:-1] + num for part, num in zip(parts, num_before, strict=False)]
    return PackedSequences(
        first_pieces=np.concatenate([*first_pieces, num_before[-1:]]),
        num_targets=np.concatenate([part.num_targets for part in parts]),
        num_tokens=np.concatenate([part.num_tokens for part in parts]),
        num_pairs=np.concatenate([part.num_pairs for part in parts]),
        starts=np.concatenate([part.starts + first for part, first in zip(parts, first_tokens, strict=True)]),
        lengths=np.concatenate([part.lengths for part in parts]),
    )


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """The bin of each item, [P], and the number of bins; every item is at least 1 and at most `capacity`.

    All items of one length are placed at once. An item leaves its bin the tightest one for the next of the
    same length, if that fits, so a bin takes as many as it can.
    """
    bins = np.empty(len(lengths), np.int64)
    num_bins = 0
    by_space: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]  # open bins by the space in them
    is_open = np.zeros(capacity + 1, bool)
    order = np.argsort(-lengths, kind="stable")
    bounds = np.flatnonzero(np.diff(lengths[order], prepend=0, append=0))
    for first, last in pairwise(bounds):
        items, length = order[first:last], int(lengths[order[first]])
        while len(items):
            fitting = np.flatnonzero(is_open[length:])
            if len(fitting):
                space = length + int(fitting[0])
                found = np.concatenate(by_space[space])
            else:
                space = capacity
                found = np.arange(num_bins, num_bins + -(-len(items) // (capacity // length)))
                num_bins += len(found)
            each = space // length
            used = found[: -(-len(items) // each)]
            placed, items = items[: len(used) * each], items[len(used) * each :]
            bins[placed] = np.repeat(used, each)[: len(placed)]
            by_space[space] = [found[len(used) :]]
            is_open[space] = len(found) > len(used)
            num_in_last = len(placed) - (len(used) - 1) * each
            for some, taken in ((used[:-1], each), (used[-1:], num_in_last)):
                left = space - taken * length
                if len(some) and left:
                    by_space[left].append(some)
                    is_open[left] = True
    return bins, num_bins


def _cut(document_lengths: np.ndarray, seq_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of the pieces, in order; each has at least one token to predict."""
    document_starts = np.cumsum(document_lengths) - document_lengths
    num_pieces = -(-(document_lengths - 1) // seq_length)
    number = np.arange(num_pieces.sum()) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    offsets = number * seq_length
    starts = np.repeat(document_starts, num_pieces) + offsets
    lengths = np.minimum(seq_length + 1, np.repeat(document_lengths, num_pieces) - offsets)
    return starts, lengths
