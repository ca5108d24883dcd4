"""Progress of long work: one changing line on a terminal, one line for each message in a log."""

from types import TracebackType
from typing import Any, TextIO

from launch.cli.output import is_terminal


class Progress:
    """Prints what is being done on `out`, which is not where the answer is printed."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._status: Any = None

    def __enter__(self) -> "Progress":
        if is_terminal(self._out):
            from rich.console import Console

            self._status = Console(file=self._out).status("")
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
            print(f"preflight: {what}", file=self._out, flush=True)
