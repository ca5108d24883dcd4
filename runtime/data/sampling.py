"""Sequences of the token stream, the validation split, and the shuffled read order.

Arithmetic only: no file, no rank, no state. What a step reads follows from its number alone.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

NUM_ROUNDS = 12


@dataclass(frozen=True, kw_only=True)
class Split:
    """The token stream cut into sequences of seq_length + 1 tokens, so that each has seq_length targets.

    The stream is `num_validation` runs of training sequences, each followed by one validation sequence:
    validation is spread evenly over the corpus, whatever its order, and measures unseen text of the same
    documents. Sequences of one run overlap by one token (the last target is the next one's first input);
    training and validation share no token. The split depends on neither seed nor layout.
    """

    num_tokens: int
    seq_length: int
    num_validation: int

    @property
    def num_train(self) -> int:
        """Training sequences. A run needs one token more than its targets; so does a validation sequence."""
        if self.num_validation == 0:
            return max(0, (self.num_tokens - 1) // self.seq_length)
        held_out = self.num_validation * (self.seq_length + 2)
        return max(0, (self.num_tokens - held_out) // self.seq_length)

    @property
    def num_sequences(self) -> int:
        """All sequences in the tokens, counted as in `num_train`; for messages."""
        overhead = 2 * self.num_validation if self.num_validation else 1
        return max(0, (self.num_tokens - overhead) // self.seq_length)

    def train_starts(self, sequences: np.ndarray) -> np.ndarray:
        """First token of each of these training sequences."""
        sequences = np.asarray(sequences, np.int64)
        size, num_larger = divmod(self.num_train, max(1, self.num_validation))
        # The first `num_larger` runs have one more sequence than the others.
        in_larger = sequences < num_larger * (size + 1)
        runs = np.where(in_larger, sequences // (size + 1), (sequences - num_larger) // max(1, size))
        starts: np.ndarray = sequences * self.seq_length + runs * (self.seq_length + 2)
        return starts

    def validation_starts(self, sequences: np.ndarray) -> np.ndarray:
        """First token of each of these validation sequences."""
        sequences = np.asarray(sequences, np.int64)
        size, num_larger = divmod(self.num_train, max(1, self.num_validation))
        num_before = (sequences + 1) * size + np.minimum(sequences + 1, num_larger)
        starts: np.ndarray = num_before * self.seq_length + sequences * (self.seq_length + 2) + 1
        return starts


@dataclass(frozen=True, kw_only=True)
class DocumentSplit:
    """Packed sequences of complete documents, of which `num_validation`, evenly spread, are held out.

    The split depends on neither seed nor layout.
    """

    num_sequences: int
    num_validation: int

    @property
    def num_train(self) -> int:
        return max(0, self.num_sequences - self.num_validation)

    def train_sequences(self, sequences: np.ndarray) -> np.ndarray:
        """The packed sequences that these training sequences are."""
        sequences = np.asarray(sequences, np.int64)
        held_out = self.validation_sequences(np.arange(self.num_validation))
        # Before the j-th held-out sequence there are as many training sequences as its number less j.
        num_before = np.searchsorted(held_out - np.arange(self.num_validation), sequences, side="right")
        found: np.ndarray = sequences + num_before
        return found

    def validation_sequences(self, sequences: np.ndarray) -> np.ndarray:
        """The packed sequences that these validation sequences are."""
        sequences = np.asarray(sequences, np.int64)
        found: np.ndarray = (2 * sequences + 1) * self.num_sequences // (2 * max(1, self.num_validation))
        return found


def read_order(positions: np.ndarray, num_sequences: int, seed: int) -> np.ndarray:
    """The training sequences at these positions of an endless stream of shuffled epochs.

    Epochs follow each other without a gap: a batch may hold the end of one and the beginning of the next, so
    every epoch reads every sequence once, whatever the batch size.
    """
    positions = np.asarray(positions, np.int64)
    epochs, places = np.divmod(positions, num_sequences)
    sequences = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        sequences[here] = shuffle(places[here], num_sequences, f"{seed} {epoch}")
    return sequences


def shuffle(places: np.ndarray, num: int, key: str) -> np.ndarray:
    """The images of these places of 0 … num-1 under the permutation that `key` selects.

    A Feistel network over the next power of four, applied until the result is below `num` (Black and Rogaway
    2002, "Ciphers with arbitrary finite domains"; for shuffling: Mitchell et al. 2021). Unlike a
    permutation in memory it takes no space, also for 10⁹ sequences on each of 8 ranks of a host, and unlike
    numpy's it is the same in every release (NEP 19 promises that only for bit streams).
    """
    half_bits = np.uint64(max(1, ((num - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half_bits)) - 1)
    digest = hashlib.shake_256(f"switchyard read order {key}".encode()).digest(8 * NUM_ROUNDS)
    round_keys = np.frombuffer(digest, "<u8")
    values = np.asarray(places).astype(np.uint64)
    pending = np.ones(values.shape, bool)
    while pending.any():
        left, right = values[pending] >> half_bits, values[pending] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        values[pending] = left << half_bits | right
        pending &= values >= num
    return values.astype(np.int64)


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer (Steele et al. 2014): every input bit changes every output bit."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ values >> np.uint64(31)
    return mixed
