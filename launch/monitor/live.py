"""Live view on a terminal: a frame drawn over the one before, until the run is done."""

import io
import time
from collections.abc import Callable

from launch.monitor.snapshot import Snapshot, State
from launch.monitor.view import heading, tables
from planner.report.tables import draw_tables
from planner.terminal_text import make_console

EVERY_S = 1.0


def show_live(look: Callable[[], Snapshot], *, sleep: Callable[[float], None] = time.sleep) -> Snapshot:
    """Returns the last snapshot, once the run is done; an interrupt ends it before."""
    from rich.live import Live
    from rich.text import Text

    console = make_console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            snapshot = look()
            frame = render(snapshot, console.width, color=console.color_system)
            live.update(Text.from_ansi(frame, no_wrap=True), refresh=True)
            if snapshot.state is State.DONE:
                return snapshot
            sleep(EVERY_S)


def render(snapshot: Snapshot, width: int, *, color: str | None) -> str:
    """A frame as text with the colours of a terminal."""
    frame = io.StringIO()
    console = make_console(
        file=frame,
        width=width,
        force_terminal=True,
        color_system=color,
        highlight=False,
        legacy_windows=False,
    )
    draw_tables(console, heading(snapshot), tables(snapshot), snapshot.notes)
    return frame.getvalue()
