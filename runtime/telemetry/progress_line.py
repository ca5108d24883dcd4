"""Progress line of a run: live on a terminal, elsewhere a line every now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from planner.terminal_text import make_console

LINE_EVERY_S = 10.0


class ProgressLine:
    """Shows each step; used as a context, on rank 0.

    step 57/150 ━━━━━╺━━━━━━━━━━ loss 6.123  validation 6.301  1,930 tokens/s  1:20 left

    Not on a terminal: the same without the bar, for the first and the last step, every validation, and every
    ten seconds. Time left assumes the mean step time so far, without the first step.
    """

    def __init__(
        self,
        *,
        first_step: int,
        last_step: int,
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_step, self._last_step = first_step, last_step
        self._console = console if console is not None else make_console(highlight=False)
        self._now = now
        self._validation_loss: float | None = None
        self._first_done_at: float | None = None
        self._printed_at = float("-inf")
        # No thread of its own: it is drawn when a step is shown, and costs nothing in between.
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[facts]}"),
            console=self._console,
            auto_refresh=False,
            expand=True,
        )
        self._task = self._bar.add_task("start", total=last_step, completed=first_step - 1, facts="")

    def __enter__(self) -> ProgressLine:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show_step(
        self, step: int, *, loss: float, validation_loss: float | None, tokens_per_s: float
    ) -> None:
        """Show a finished step. Where validation_loss is None, the last one stays on the line."""
        now = self._now()
        if self._first_done_at is None:
            self._first_done_at = now
        if validation_loss is not None:
            self._validation_loss = validation_loss
        where = f"step {step:>{len(str(self._last_step))}}/{self._last_step}"
        facts = "  ".join(filter(None, self._facts(step, loss, tokens_per_s, now)))
        if self._console.is_terminal:
            self._bar.update(self._task, description=where, completed=step, facts=facts, refresh=True)
        elif (
            step in (self._first_step, self._last_step)
            or validation_loss is not None
            or now - self._printed_at >= LINE_EVERY_S
        ):
            self._console.print(f"{where}  {facts}", soft_wrap=True)
            self._printed_at = now

    def _facts(self, step: int, loss: float, tokens_per_s: float, now: float) -> tuple[str, ...]:
        return (
            f"loss {loss:.3f}",
            "" if self._validation_loss is None else f"validation {self._validation_loss:.3f}",
            f"{tokens_per_s:,.0f} tokens/s",
            self._time_left(step, now),
        )

    def _time_left(self, step: int, now: float) -> str:
        num_timed = step - self._first_step  # the first step is slow: caches, compilation
        if self._first_done_at is None or num_timed < 1 or step >= self._last_step:
            return ""
        seconds = (now - self._first_done_at) / num_timed * (self._last_step - step)
        return f"{_clock(seconds)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
