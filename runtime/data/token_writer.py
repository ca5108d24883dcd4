"""Writer of a cache entry's token files: tokens, the documents' lengths, and which tokens are targets."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from runtime.data.cache import DOCUMENTS_NAME, TARGETS_NAME, TOKENS_NAME


@dataclass(frozen=True, kw_only=True)
class WrittenTokens:
    """Counts and hashes of what was written; the targets' are None where every token is one.

    part_tokens, part_documents: of each part of the data.
    """

    num_tokens: int
    num_targets: int | None
    tokens_sha256: str
    documents_sha256: str
    targets_sha256: str | None
    part_tokens: tuple[int, ...]
    part_documents: tuple[int, ...]


class TokenWriter:
    """Context in which documents are written one after the other, each followed by the end-of-text token.

    A document without tokens is left out. `has_targets`: each document says which of its tokens are targets;
    the end-of-text token then never is one, and is not added to a document that ends with it.
    """

    def __init__(self, folder: Path, end_of_text: int, dtype: np.dtype, *, has_targets: bool) -> None:
        self.num_tokens = 0
        self._folder, self._end_of_text, self._dtype = folder, end_of_text, dtype
        self._has_targets = has_targets
        self._lengths = array("q")
        self._part_ends: list[tuple[int, int]] = []
        self._length = self._num_targets = 0
        self._hashes = {name: hashlib.sha256() for name in (TOKENS_NAME, TARGETS_NAME)}
        self._context = ExitStack()

    def __enter__(self) -> TokenWriter:
        names = (TOKENS_NAME, TARGETS_NAME) if self._has_targets else (TOKENS_NAME,)
        self._streams = {
            name: self._context.enter_context((self._folder / name).open("wb")) for name in names
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.close()

    def add(self, ids: Sequence[int], *, ends_document: bool) -> None:
        """A part of the current document."""
        assert not self._has_targets, "say which are targets"
        self._length += len(ids)
        if ends_document and self._length:
            ids = [*ids, self._end_of_text]
            self._lengths.append(self._length + 1)
        if ends_document:
            self._length = 0
        self._write(TOKENS_NAME, np.asarray(ids, self._dtype))
        self.num_tokens += len(ids)

    def add_with_targets(self, ids: Sequence[int], is_target: Sequence[bool]) -> None:
        """A complete document."""
        assert self._has_targets, "every token is a target"
        ends = not ids or ids[-1] == self._end_of_text
        ids, is_target = ([*ids], [*is_target]) if ends else ([*ids, self._end_of_text], [*is_target, False])
        if not ids:
            return
        self._lengths.append(len(ids))
        self._write(TOKENS_NAME, np.asarray(ids, self._dtype))
        self._write(TARGETS_NAME, np.asarray(is_target, np.uint8))
        self.num_tokens += len(ids)
        self._num_targets += sum(is_target)

    def end_part(self) -> None:
        """Ends a part of the data, of which there is at least one, between two documents."""
        assert self._length == 0, "inside a document"
        self._part_ends.append((self.num_tokens, len(self._lengths)))

    def finish(self) -> WrittenTokens:
        """Writes the documents' lengths. To be called inside the context, at its end."""
        lengths = np.asarray(self._lengths, "<i8").tobytes()
        (self._folder / DOCUMENTS_NAME).write_bytes(lengths)
        assert self._part_ends[-1:] == [(self.num_tokens, len(self._lengths))], "a part has not ended"
        part_tokens, part_documents = np.diff(np.array([(0, 0), *self._part_ends]), axis=0).T.tolist()
        return WrittenTokens(
            num_tokens=self.num_tokens,
            num_targets=self._num_targets if self._has_targets else None,
            tokens_sha256=self._hashes[TOKENS_NAME].hexdigest(),
            documents_sha256=hashlib.sha256(lengths).hexdigest(),
            targets_sha256=self._hashes[TARGETS_NAME].hexdigest() if self._has_targets else None,
            part_tokens=tuple(part_tokens),
            part_documents=tuple(part_documents),
        )

    def _write(self, name: str, values: np.ndarray) -> None:
        content = values.tobytes()
        self._hashes[name].update(content)
        self._streams[name].write(content)
