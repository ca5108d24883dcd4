"""Requests to a supervisor to stop: INT and TERM ask the attempt to save and end."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Protocol


class _Stoppable(Protocol):
    def ask_to_stop(self, number: int, frame: FrameType | None) -> None: ...


@contextlib.contextmanager
def stop_requests(supervisor: _Stoppable) -> Iterator[None]:
    """Hands both signals to the supervisor."""
    before = {
        number: signal.signal(number, supervisor.ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
