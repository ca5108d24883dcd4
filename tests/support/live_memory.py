"""Memory of a live rank over a step: bytes of all tensors, at their peak in each phase.

A dispatch mode sees every tensor that an operation makes, and each storage says when it is freed. What an
operation needs inside is not seen.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that are alive, and their peak in each phase."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.bytes = 0
        self.phase = "between steps"
        self.peaks: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.track(leaf)
        self.look()
        return result

    def track(self, tensor: Tensor) -> None:
        if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.bytes += storage.nbytes()
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.bytes -= self.alive.pop(key, 0)

    def look(self) -> None:
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self.bytes)

    def enter(self, phase: str) -> None:
        self.look()
        self.phase = phase

    def within(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` as a phase of its own; what follows belongs to the phase before."""

        def run(*args: Any, **kwargs: Any) -> Any:
            before = self.phase
            self.enter(phase)
            try:
                return call(*args, **kwargs)
            finally:
                self.enter(before)

        return run

    def from_then_on(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` as the begin of a phase; what it leaves behind belongs to it too."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase)
            return call(*args, **kwargs)

        return run


def watch(engine: Any) -> LiveBytes:
    """A mode that follows an engine through the phases of its steps; to be entered around them."""
    live = LiveBytes()

    def at_last(phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        # Called after every micro-batch; what it does before the last one belongs to the backward pass.
        last = live.within(phase, call)

        def run(*args: Any, **kwargs: Any) -> Any:
            return (last if engine.is_gradient_accumulation_boundary() else call)(*args, **kwargs)

        return run

    engine.forward = live.from_then_on("forward", engine.forward)
    # What lives on after the loss is the loss's own.
    engine.module._cross_entropy = live.from_then_on("loss", engine.module._cross_entropy)
    engine.backward = live.from_then_on("backward", engine.backward)
    engine.allreduce_gradients = at_last("reduction", engine.allreduce_gradients)
    engine.step = at_last("update", engine.step)
    return live
