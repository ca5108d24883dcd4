"""Writing a checkpoint beside training: pieces are copied into the host's memory, a thread writes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from runtime.checkpoint.safetensors_writer import OwnedPiece


class AsyncWriter:
    """Writes one checkpoint at a time. Its memory is kept from save to save."""

    def __init__(self) -> None:
        self._memory: list[Tensor] = []
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def begin(self, pieces: Sequence[OwnedPiece], write: Callable[[Sequence[OwnedPiece]], None]) -> None:
        """Copies `pieces` and returns; a thread then calls `write` with the copies.

        Waits for the write before this one.

        Raises:
            Exception: what that one raised.
        """
        self.finish()
        copies = self._copy(pieces)

        def run() -> None:
            try:
                write(copies)
            except Exception as error:
                self._error = error

        # A rank that ends in an error does not wait for it: what is half written never counts.
        self._thread = threading.Thread(target=run, name="checkpoint-writer", daemon=True)
        self._thread.start()

    @property
    def has_failed(self) -> bool:
        """Whether `finish` would raise at once."""
        return self._error is not None

    def finish(self) -> None:
        """Waits until what was begun is written.

        Raises:
            Exception: what the write raised, once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _copy(self, pieces: Sequence[OwnedPiece]) -> list[OwnedPiece]:
        if [_form(memory) for memory in self._memory] != [_form(piece.tensor) for piece in pieces]:
            self._memory = [_host_memory(piece.tensor) for piece in pieces]
        on_gpu = {piece.tensor.device for piece in pieces if piece.tensor.is_cuda}
        for memory, piece in zip(self._memory, pieces, strict=True):
            memory.copy_(piece.tensor, non_blocking=True)
        for device in on_gpu:
            torch.cuda.synchronize(device)
        return [replace(piece, tensor=memory) for memory, piece in zip(self._memory, pieces, strict=True)]


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _host_memory(like: Tensor) -> Tensor:
    """Pinned where it is copied to from a GPU: only then is the copy as fast as the link."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)
