"""The sequences of all parts of the data: which are trained in which order, which are held out.

Without data.mix there is one part. Parts lie one after the other in the token file; a place is a sequence's
first token there, with data.packing documents the number of a packed sequence.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from planner.problems import Problem
from planner.strategy.schema import Strategy
from runtime.data.cache import DataManifest
from runtime.data.corpus import data_problem, key_of_part
from runtime.data.mixture import PERIOD, Mixture, make_mixture
from runtime.data.packing import PackedSequences
from runtime.data.sampling import DocumentSplit, Split, read_order


@dataclass(frozen=True, kw_only=True)
class PartSplit:
    """The sequences of one part, and its first place."""

    split: Split | DocumentSplit
    first: int

    def train_places(self, sequences: np.ndarray) -> np.ndarray:
        if isinstance(self.split, DocumentSplit):
            return self.first + self.split.train_sequences(sequences)
        return self.first + self.split.train_starts(sequences)

    def validation_places(self, sequences: np.ndarray) -> np.ndarray:
        if isinstance(self.split, DocumentSplit):
            return self.first + self.split.validation_sequences(sequences)
        return self.first + self.split.validation_starts(sequences)


@dataclass(frozen=True, kw_only=True)
class MixedSplit:
    """All parts and their shares. Training sequences are numbered through all parts, in their order.

    Nothing but `mixture`, the parts, the seed and a position decides what is read.
    """

    mixture: Mixture
    parts: tuple[PartSplit, ...]

    @property
    def num_train(self) -> int:
        return sum(part.split.num_train for part in self.parts)

    @property
    def num_validation(self) -> int:
        return sum(part.split.num_validation for part in self.parts)

    def train_order(self, positions: np.ndarray, seed: int) -> np.ndarray:
        """The training sequences at these positions of the endless stream; int64 [n].

        A part's sequences come in shuffled epochs of their own.
        """
        parts, numbers = self.mixture.places(positions)
        firsts = self._first_sequences()
        return self._by_part(
            parts,
            numbers,
            lambda part, here: firsts[part] + read_order(here, self.parts[part].split.num_train, seed),
        )

    def train_places(self, sequences: np.ndarray) -> np.ndarray:
        """Where these training sequences are; int64 [n]."""
        sequences = np.asarray(sequences, np.int64)
        firsts = self._first_sequences()
        parts = np.searchsorted(firsts, sequences, side="right") - 1
        return self._by_part(
            parts, sequences - firsts[parts], lambda part, here: self.parts[part].train_places(here)
        )

    def validation_places(self, sequences: np.ndarray) -> np.ndarray:
        """Where these validation sequences are; int64 [n]. They are mixed as the training sequences are."""
        parts, numbers = self.mixture.places(sequences)
        return self._by_part(parts, numbers, lambda part, here: self.parts[part].validation_places(here))

    def epochs(self, num_sequences: int) -> list[float]:
        """How many times the first `num_sequences` of training read each part."""
        read = self.mixture.num_before(num_sequences)
        return [n / max(1, part.split.num_train) for n, part in zip(read, self.parts, strict=True)]

    def _first_sequences(self) -> np.ndarray:
        """The number of each part's first training sequence."""
        sizes = [part.split.num_train for part in self.parts]
        return np.cumsum([0, *sizes[:-1]], dtype=np.int64)

    def _by_part(
        self,
        parts: np.ndarray,
        numbers: np.ndarray,
        find: Callable[[int, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        found = np.empty(len(numbers), np.int64)
        for part in np.unique(parts):
            here = parts == part
            found[here] = find(int(part), numbers[here])
        return found


def make_split(strategy: Strategy, manifest: DataManifest, packed: PackedSequences | None) -> MixedSplit:
    """The split of the prepared data; `packed`: with data.packing documents."""
    mix = strategy.data.mix
    mixture = make_mixture([1.0] if mix is None else [part.weight for part in mix])
    held_out = mixture.num_before(strategy.data.validation_sequences)
    first_tokens = np.cumsum([0, *manifest.part_tokens[:-1]]).tolist()
    if packed is None:
        splits: list[Split | DocumentSplit] = [
            Split(num_tokens=num, seq_length=strategy.training.seq_length, num_validation=num_validation)
            for num, num_validation in zip(manifest.part_tokens, held_out, strict=True)
        ]
        firsts = first_tokens
    else:
        sizes = packed.num_sequences_between(first_tokens)
        splits = [
            DocumentSplit(num_sequences=num, num_validation=num_validation)
            for num, num_validation in zip(sizes, held_out, strict=True)
        ]
        firsts = np.cumsum([0, *sizes[:-1]]).tolist()
    parts = (PartSplit(split=split, first=first) for split, first in zip(splits, firsts, strict=True))
    return MixedSplit(mixture=mixture, parts=tuple(parts))


def find_shortages(strategy: Strategy, manifest: DataManifest, split: MixedSplit) -> list[Problem]:
    """A Problem for each part with too few sequences for validation and its share of one global batch."""
    problems = []
    training = strategy.training
    for number, (part, count) in enumerate(zip(split.parts, split.mixture.counts, strict=True)):
        num_in_batch = -(-count * training.global_batch // PERIOD)
        if part.split.num_train >= num_in_batch:
            continue
        num_validation = part.split.num_validation
        problems.append(
            data_problem(
                "SW713",
                f"only {part.split.num_sequences:,} sequences of {training.seq_length:,} tokens in the data "
                f"({manifest.part_tokens[number]:,} tokens)",
                f"at least {num_validation + num_in_batch:,}: {num_validation:,} for validation "
                f"(data.validation_sequences) and {num_in_batch:,} for one global batch",
                "give more text, or lower training.seq_length, training.global_batch "
                "or data.validation_sequences",
                path=key_of_part(None if strategy.data.mix is None else number),
            )
        )
    return problems
