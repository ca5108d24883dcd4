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
from runtime.data.prepare import default_cache_folder, resolve_inputs, split_tokens
from runtime.data.sampling import Split, read_order


@dataclass(frozen=True, kw_only=True)
class TokenData:
    """Prepared data, mapped into memory; independent of ranks.

    tokens: every document's tokens, each followed by `end_of_text`; [split.num_tokens], read-only.
    content_hash: SHA-256 of what decides the sequences, apart from `training`: tokens, tokenizer, split.
    tokenizer_hash: SHA-256 of the tokenizer's content.
    """

    folder: Path
    tokens: np.ndarray
    split: Split
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
        """How many times `steps` steps read each training sequence."""
        return steps * self.global_batch / self.num_train_sequences

    def train_indices(self, batch_index: int, rows: slice | range = slice(None)) -> np.ndarray:
        """The training sequences in these rows of global batch `batch_index` (from 0); int64 [n]."""
        assert batch_index >= 0, batch_index
        positions = np.asarray(_select(rows, self.global_batch), np.int64) + batch_index * self.global_batch
        return read_order(positions, self.num_train_sequences, self.seed)

    def train_rows(self, batch_index: int, rows: slice | range = slice(None)) -> np.ndarray:
        """Rows of global batch `batch_index` (from 0): int64 [n, seq_length + 1]."""
        return self._read(self.split.train_starts(self.train_indices(batch_index, rows)))

    def validation_rows(self, rows: slice | range = slice(None)) -> np.ndarray:
        """Validation sequences: int64 [n, seq_length + 1]."""
        return self._read(
            self.split.validation_starts(np.asarray(_select(rows, self.num_validation_sequences)))
        )

    def _read(self, starts: np.ndarray) -> np.ndarray:
        length = self.split.seq_length + 1
        rows = np.empty((len(starts), length), np.int64)
        for row, start in zip(rows, starts, strict=True):
            row[:] = self.tokens[start : start + length]
        return rows


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
    try:
        manifest = read_entry(entry)
    except (FileNotFoundError, DamagedEntry) as error:
        problem = Problem(
            code="SW715",
            path="output.folder",
            found=f"no intact prepared data in {entry}: {error}",
            expected="a path shared by all hosts, where rank 0 prepared the data at the start",
            fix="put output.folder on a file system that all hosts share, and start again",
        )
        raise StrategyError((problem,)) from error
    split = split_tokens(strategy, manifest)
    identity = [manifest.tokens_sha256, manifest.tokenizer_hash, split.num_validation]
    return TokenData(
        folder=entry,
        tokens=np.memmap(entry / TOKENS_NAME, np.dtype(f"<u{manifest.token_bytes}"), mode="r"),
        split=split,
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
