"""Progress of long work: one changing line on a terminal, one line for each message in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from launch.cli.output import is_terminal
from planner.terminal_text import make_console


class Progress:
    """Prints what is being done on `out`, which is not where the answer is printed.

    Args:
        of: the command, in front of the lines of a log.
    """

    def __init__(self, out: TextIO, of: str = "preflight") -> None:
        self._out, self._of = out, of
        self._status: Any = None

    def __enter__(self) -> "Progress":
        if is_terminal(self._out):
            self._status = make_console(file=self._out).status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, what: str) -> None:
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(what))
        else:
            print(f"{self._of}: {what}", file=self._out, flush=True)


LOG_EVERY_S = 10.0  # in a log; work that is done before says nothing there
_DRAW_EVERY_S = 0.2


@contextmanager
def counted(out: TextIO, of: str, what: str) -> Iterator[Callable[[int, int], None]]:
    """A function that is told how many of how many are done, as often as one likes."""
    every = _DRAW_EVERY_S if is_terminal(out) else LOG_EVERY_S
    next_time = time.monotonic() + every
    with Progress(out, of) as progress:

        def report(done: int, total: int) -> None:
            nonlocal next_time
            if time.monotonic() >= next_time:
                progress.show(f"{done:,} of {total:,} {what}")
                next_time = time.monotonic() + every

        yield report
