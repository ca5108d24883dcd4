"""Token batches: rank 0 prepares the data once, every rank maps them, a batch follows from its index.

Global batch i holds the same sequences for any number of ranks and after any resume: it follows from the
data, `training.seed`, `global_batch`, `seq_length` and i. Each rank reads its own rows of it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from planner.problems import Problem, StrategyError
from planner.strategy.schema import Strategy
from runtime.data.cache import TOKENIZER_NAME, TOKENS_NAME, DamagedEntry, read_entry
from runtime.data.mixed_split import MixedSplit, make_split
from runtime.data.packed_file import map_targets, open_packed
from runtime.data.packing import PackedSequences
from runtime.data.prepare import default_cache_folder, resolve_inputs
from runtime.data.rows import Rows, Totals


@dataclass(frozen=True, kw_only=True)
class TokenData:
    """Prepared data, mapped into memory; independent of ranks.

    tokens: every document's tokens, each followed by `end_of_text`; read-only. is_target: one byte for each
    token, 1 where the loss asks for it; None: it asks for all. packed: with data.packing documents.
    content_hash: SHA-256 of what decides the sequences, apart from `training`: tokens, tokenizer, split.
    tokenizer_hash: SHA-256 of the tokenizer's content.
    """

    folder: Path
    tokens: np.ndarray
    is_target: np.ndarray | None = None
    packed: PackedSequences | None = None
    split: MixedSplit
    seq_length: int
    seed: int
    global_batch: int
    content_hash: str
    tokenizer_hash: str
    end_of_text: int

    @property
    def num_train_sequences(self) -> int:
        return self.split.num_train

    @property
    def num_validation_sequences(self) -> int:
        return self.split.num_validation

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer.json, in the format of the package tokenizers."""
        return self.folder / TOKENIZER_NAME

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.tokenizer_file))

    def epochs(self, steps: int) -> float:
        """How many times `steps` steps read each training sequence; of a mixture, of the part read most."""
        return max(self.split.epochs(steps * self.global_batch))

    def describe(self) -> str | None:
        """A line on how many positions have a target, or are padding; None where all have one."""
        if self.packed is not None:
            num_positions = self.packed.num_sequences * self.seq_length
            targets, padding = (
                int(self.packed.num_targets.sum()),
                1 - self.packed.num_tokens.sum() / num_positions,
            )
            return (
                f"data: {len(self.packed.starts):,} documents or parts of one in "
                f"{self.packed.num_sequences:,} sequences; {targets / num_positions:.1%} of the positions "
                f"have a target ({targets:,}), "
                f"{padding:.1%} are padding"
            )
        if self.is_target is not None:
            targets = int(self.is_target.sum())
            return f"data: {targets / len(self.tokens):.1%} of the tokens are targets ({targets:,})"
        return None

    def train_indices(self, batch_index: int, rows: slice | range = slice(None)) -> np.ndarray:
        """The training sequences in these rows of global batch `batch_index` (from 0); int64 [n]."""
        assert batch_index >= 0, batch_index
        positions = np.asarray(_select(rows, self.global_batch), np.int64) + batch_index * self.global_batch
        return self.split.train_order(positions, self.seed)

    def train_rows(self, batch_index: int, rows: slice | range = slice(None)) -> Rows:
        """Rows of global batch `batch_index` (from 0)."""
        return self._read(self._train_places(batch_index, rows))

    def train_totals(self, batch_index: int) -> Totals:
        """The counts of global batch `batch_index`."""
        return self._totals(self._train_places(batch_index, slice(None)))

    def validation_rows(self, rows: slice | range = slice(None)) -> Rows:
        """Validation sequences."""
        return self._read(self._validation_places(rows))

    def validation_totals(self) -> Totals:
        """The counts of all validation sequences."""
        return self._totals(self._validation_places(slice(None)))

    def _train_places(self, batch_index: int, rows: slice | range) -> np.ndarray:
        """What `_read` takes: a sequence's first token, or with documents its number."""
        return self.split.train_places(self.train_indices(batch_index, rows))

    def _validation_places(self, rows: slice | range) -> np.ndarray:
        return self.split.validation_places(
            np.asarray(_select(rows, self.num_validation_sequences), np.int64)
        )

    def _totals(self, places: np.ndarray) -> Totals:
        if self.packed is not None:
            return self.packed.totals(places)
        num_tokens = len(places) * self.seq_length
        num_targets = num_tokens
        if self.is_target is not None:
            num_targets = sum(int(self.is_target[p + 1 : p + 1 + self.seq_length].sum()) for p in places)
        return Totals(
            num_targets=num_targets,
            num_tokens=num_tokens,
            num_sequences=len(places),
            num_pairs=num_tokens * (self.seq_length + 1) // 2,
        )

    def _read(self, places: np.ndarray) -> Rows:
        if self.packed is not None:
            return self.packed.read(self.tokens, self.is_target, places, self.seq_length)
        length = self.seq_length + 1
        tokens_BS1 = np.empty((len(places), length), np.int64)
        for row, start in zip(tokens_BS1, places, strict=True):
            row[:] = self.tokens[start : start + length]
        if self.is_target is None:
            return Rows(tokens_BS1=tokens_BS1)
        has_target_BS = np.empty((len(places), self.seq_length), bool)
        for row, start in zip(has_target_BS, places, strict=True):
            row[:] = self.is_target[start + 1 : start + length]
        return Rows(tokens_BS1=tokens_BS1, has_target_BS=has_target_BS)


def open_data(
    strategy: Strategy, cache_folder: Path | None = None, *, entry: Path | None = None
) -> TokenData:
    """Maps the prepared data into memory; on every rank, after rank 0's `prepare_data`.

    Args:
        entry: what `prepare_data` returned on rank 0. With it a rank need not stat every file of the corpus,
            and cannot derive another entry than rank 0 if a file is modified meanwhile.

    Raises:
        StrategyError: if the data were not prepared, are damaged, or are not visible on this host.
    """
    if entry is None:
        cache = cache_folder or default_cache_folder(strategy)
        inputs = resolve_inputs(strategy, cache)
        if inputs.key is None:
            raise StrategyError(inputs.problems)
        entry = cache / inputs.key
    seq_length = strategy.training.seq_length
    packed = None
    try:
        manifest = read_entry(entry)
        identity: list[object] = [
            manifest.tokens_sha256,
            manifest.tokenizer_hash,
            strategy.data.validation_sequences,
        ]
        if strategy.data.packing == "documents":
            packed, digest = open_packed(entry, seq_length)
            identity += ["documents", digest]
    except (FileNotFoundError, DamagedEntry) as error:
        problem = Problem(
            code="SW715",
            path="output.folder",
            found=f"no intact prepared data in {entry}: {error}",
            expected="a path shared by all hosts, where rank 0 prepared the data at the start",
            fix="put output.folder on a file system that all hosts share, and start again",
        )
        raise StrategyError((problem,)) from error
    split = make_split(strategy, manifest, packed)
    if strategy.data.mix is not None:
        identity += ["mix", split.mixture.counts, manifest.part_tokens]
    if manifest.targets_sha256 is not None:
        identity += ["targets", manifest.targets_sha256]
    return TokenData(
        folder=entry,
        tokens=np.memmap(entry / TOKENS_NAME, np.dtype(f"<u{manifest.token_bytes}"), mode="r"),
        is_target=map_targets(entry, manifest),
        packed=packed,
        split=split,
        seq_length=seq_length,
        seed=strategy.training.seed,
        global_batch=strategy.training.global_batch,
        content_hash=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        tokenizer_hash=manifest.tokenizer_hash,
        end_of_text=manifest.end_of_text,
    )


def _select(rows: slice | range, num_rows: int) -> range:
    """The row numbers in `rows`; a slice ends where the rows end, as everywhere in Python."""
    if isinstance(rows, slice):
        return range(num_rows)[rows]
    assert not rows or (min(rows) >= 0 and max(rows) < num_rows), f"{rows} of {num_rows} rows"
    return rows
