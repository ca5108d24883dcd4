"""What a person sees while a run trains."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys

from rich.console import Console

from runtime.telemetry.progress_line import ProgressLine
from tests.support.launching import ROOT


def tell(console: Console, steps, *, first_step=1, last_step=20, seconds_a_step=2.0) -> None:
    now = [0.0]
    with ProgressLine(
        first_step=first_step, last_step=last_step, console=console, now=lambda: now[0]
    ) as progress:
        for step in steps:
            now[0] += seconds_a_step
            validation_loss = 6.25 if step % 10 == 0 else None
            progress.show_step(step, loss=8 - step / 10, validation_loss=validation_loss, tokens_per_s=1934.4)


def lines_of(**options) -> list[str]:
    stream = io.StringIO()
    tell(Console(file=stream, highlight=False, width=200), **options)
    return stream.getvalue().splitlines()


def test_off_a_terminal_there_is_a_line_now_and_then():
    assert lines_of(steps=range(1, 21)) == [
        "step  1/20  loss 7.900  1,934 tokens/s",
        "step  6/20  loss 7.400  1,934 tokens/s  0:28 left",
        "step 10/20  loss 7.000  validation 6.250  1,934 tokens/s  0:20 left",
        "step 15/20  loss 6.500  validation 6.250  1,934 tokens/s  0:10 left",
        "step 20/20  loss 6.000  validation 6.250  1,934 tokens/s",
    ]


def test_hours_are_told():
    lines = lines_of(steps=range(1, 3), last_step=2000, seconds_a_step=20.0)
    assert lines[-1] == "step    2/2000  loss 7.800  1,934 tokens/s  11:06:00 left"


def test_a_resumed_run_counts_from_where_it_goes_on():
    lines = lines_of(steps=range(11, 21), first_step=11)
    assert lines[0] == "step 11/20  loss 6.900  1,934 tokens/s"
    assert lines[1] == "step 16/20  loss 6.400  1,934 tokens/s  0:08 left"


def on_a_terminal(width: int = 120, **options) -> str:
    stream = io.StringIO()
    tell(Console(file=stream, force_terminal=True, highlight=False, width=width, **options), range(1, 21))
    return stream.getvalue()


def test_on_a_terminal_one_line_is_drawn_over():
    text = on_a_terminal(color_system="standard", no_color=False)
    assert text.count("\r") > 20
    assert "validation 6.250" in text
    assert "\x1b[9" in text  # colour
    assert "step 20/20" in text.splitlines()[-1] or "step 20/20" in text.splitlines()[-2]


def test_on_a_narrow_terminal_the_bar_gives_way():
    text = on_a_terminal(width=80, color_system=None)
    assert "step 10/20 ━" in text
    assert "loss 7.000  validation 6.250  1,934 tokens/s  0:20 left\r" in text
    drawn = re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", text)
    assert max(len(line) for line in re.split("[\r\n]", drawn)) <= 80


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = on_a_terminal()
    assert "step 20/20" in text
    assert "\x1b[3" not in text
    assert "\x1b[9" not in text


def test_a_loss_that_is_not_a_number_is_shown_as_such():
    stream = io.StringIO()
    with ProgressLine(first_step=1, last_step=2, console=Console(file=stream, width=200)) as progress:
        progress.show_step(1, loss=float("nan"), validation_loss=None, tokens_per_s=10.0)
    assert "loss nan" in stream.getvalue()


def test_on_a_terminal_the_bar_is_redrawn_by_its_own_controls() -> None:
    """Which are no text of anybody's to be escaped, also while the bar redirects what is printed."""
    program = (
        "from planner.standard_streams import open_streams_of_run; open_streams_of_run()\n"
        "from runtime.telemetry.progress_line import ProgressLine\n"
        "with ProgressLine(first_step=1, last_step=2) as line:\n"
        "    line.show_step(1, loss=1.0, validation_loss=None, tokens_per_s=1.0)\n"
        "    print('of a file: \\x1b]0;title\\x07')\n"
        "    line.show_step(2, loss=1.0, validation_loss=None, tokens_per_s=1.0)\n"
    )
    terminal, its_end = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment | {"TERM": "xterm", "COLUMNS": "60"},
        stdout=its_end,
        stderr=its_end,
        check=True,
        timeout=60,
    )
    os.close(its_end)
    shown = b""
    with contextlib.suppress(OSError):  # at its end
        while piece := os.read(terminal, 65536):
            shown += piece
    os.close(terminal)
    assert b"\r\x1b[2K" in shown, "the line is erased before it is drawn again"
    assert rb"\x1b" not in shown, shown
    assert b"\x1b]0;" not in shown, "text obeys nothing"
