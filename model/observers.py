"""What collectives report to while they run: a clock, and a log of what a rank gives and gets."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor


class Clock(Protocol):
    """Counts the seconds spent inside `with clock.phase(name)`."""

    def phase(self, name: str) -> AbstractContextManager[Any]: ...


class ExchangeLog(Protocol):
    """Sees every tensor that this rank gives to its peers, before it does, and gets from them."""

    def gives(self, x: Tensor) -> None: ...

    def gets(self, x: Tensor) -> None: ...


class _NoClock:
    def phase(self, name: str) -> AbstractContextManager[Any]:
        return nullcontext()


class _NoLog:
    def gives(self, x: Tensor) -> None:
        pass

    def gets(self, x: Tensor) -> None:
        pass


NO_CLOCK: Clock = _NoClock()
NO_LOG: ExchangeLog = _NoLog()
