"""Control characters in what is printed: escaped, while rich's own colours reach the terminal."""

import io
import logging
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from planner.report.tables import Table, print_tables
from planner.terminal_text import escape_controls, make_console
from planner.yaml12_writer import section_yaml
from tests.support.hostile import ESCAPED, HOSTILE, Streams


@pytest.fixture
def streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Streams:
    return Streams(tmp_path / "printed", monkeypatch)


def test_controls_are_escaped_and_nothing_else() -> None:
    assert escape_controls(HOSTILE) == ESCAPED
    plain = "é ü 東京 \U0001f682 \t tab\nline \\x1b zero\u200dwidth"
    assert escape_controls(plain) == plain


def test_what_is_printed_is_escaped(streams: Streams) -> None:
    streams.open()
    print(HOSTILE)
    streams.assert_escaped()


def test_errors_are_escaped_too(streams: Streams) -> None:
    streams.open()
    print(HOSTILE, file=sys.stderr)
    streams.assert_escaped()


def test_a_log_is_escaped(streams: Streams) -> None:
    streams.open()
    handler = logging.StreamHandler()
    handler.emit(logging.LogRecord("n", logging.WARNING, "p", 1, "%s", (HOSTILE,), None))
    streams.assert_escaped()


def test_a_traceback_is_escaped(streams: Streams) -> None:
    streams.open()
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        sys.excepthook(type(error), error, None)
    streams.assert_escaped()


def test_a_progress_bar_may_go_back_to_the_start_of_its_line(streams: Streams) -> None:
    streams.open()
    print("\r 10 %", end="")
    print("\r 20 %\rx", end="")
    assert streams.printed() == "\r 10 %\r 20 %\\x0dx"


@pytest.mark.parametrize("is_plain", [True, False])
def test_tables_are_escaped(streams: Streams, is_plain: bool) -> None:
    streams.open()
    table = Table(title="t", columns=("a",), rows=((HOSTILE,),))
    print_tables([HOSTILE], [table], [HOSTILE], sys.stdout, is_plain=is_plain)
    streams.assert_escaped()


def test_colours_of_a_console_are_not(streams: Streams) -> None:
    """Inside of a table, in a title and as plain text."""
    streams.open()
    options = {"color_system": "standard", "no_color": False, "highlight": False}
    console = make_console(force_terminal=True, width=200, **options)
    table = RichTable("x", title=HOSTILE)
    table.add_row(Text(HOSTILE, style="red"))
    console.print(table)
    console.print(HOSTILE, style="bold")
    printed = streams.printed()
    assert "\x1b[31m" in printed
    assert "\x1b[1m" in printed
    for colour in ("\x1b[31m", "\x1b[1m", "\x1b[3m", "\x1b[0m"):
        printed = printed.replace(colour, "")
    assert "\x1b" not in printed
    assert printed.count("\\x1b[2J") == 3


def test_a_console_that_is_not_ours_still_has_its_colours(streams: Streams) -> None:
    """typer's help."""
    streams.open()
    Console(force_terminal=True, color_system="standard", no_color=False).print("x", style="red")
    assert streams.printed() == "\x1b[31mx\x1b[0m\n"


def test_a_console_on_another_file_escapes_too() -> None:
    out = io.StringIO()
    make_console(file=out, width=200).print(HOSTILE)
    assert "\\x1b[2J" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_printed_strategy_still_means_the_same(streams: Streams, tmp_path: Path) -> None:
    """YAML reads the escapes back, because the writer quotes such a text."""
    streams.open()
    print(section_yaml("data", {"path": HOSTILE}))
    streams.assert_nothing_obeyed()
    assert yaml.safe_load(streams.printed())["data"]["path"] == HOSTILE
