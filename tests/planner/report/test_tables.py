"""Tables on terminals of any width: no figure and no name is cut."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from planner.report import tables
from planner.report.tables import Table, fit_columns, print_tables, turn_sideways
from planner.terminal_text import make_console

WIDE = Table(
    title="Memory",
    columns=("stage", *(f"cause{i}" for i in range(12)), "peak"),
    rows=tuple((f"stage{s}", *(f"{s}{i}.5 MB" for i in range(12)), f"{s} GB") for s in range(9)),
    numeric=frozenset({*(f"cause{i}" for i in range(12)), "peak"}),
)


def drawn(table: Table, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    out = io.StringIO()
    monkeypatch.setattr(tables, "make_console", lambda **kwargs: make_console(**kwargs, width=width))
    print_tables((), (table,), (), out, is_plain=False)
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 132, 200])
def test_every_figure_is_there_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(WIDE, width, monkeypatch)
    assert max(map(len, text.splitlines())) <= width
    for row in WIDE.rows:
        for cell in row:
            assert re.search(rf"(?<!\S){re.escape(cell)}(?!\S)", text), cell


def test_optional_columns_go_first_to_last_and_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(
        title="t",
        columns=("name", "a" * 20, "b" * 20, "c" * 20),
        rows=(("n", "1", "2", "3"),),
        optional=("c" * 20, "a" * 20),
    )
    # name 4, three columns of 20, a gap of 2 after each of 4, 1 at the edge: 73
    assert fit_columns(table, 73) == (table, ())
    narrower, left_out = fit_columns(table, 72)
    assert narrower is not None
    assert (narrower.columns, left_out) == (("name", "a" * 20, "b" * 20), ("c" * 20,))
    assert fit_columns(table, 20) == (None, ())
    assert f"left out on this terminal: {'c' * 20}" in drawn(table, 72, monkeypatch)


def test_a_table_turned_sideways_has_as_many_parts_as_the_width_needs() -> None:
    # The names take 8, each stage "011.5 MB" 8, a gap of 2 after each, 1 at the edge: 6 stages are 71 wide.
    parts = turn_sideways(WIDE, 71)
    assert [len(part.columns) - 1 for part in parts] == [6, 3]
    assert [part.title for part in parts] == ["Memory", ""]
    assert parts[1].rows[0] == ("cause0", "60.5 MB", "70.5 MB", "80.5 MB")


def test_words_go_below_their_row_and_names_wrap_at_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(
        title="Claims",
        columns=("claim", "stated", "arithmetic"),
        rows=(("embedding_all_reduce_bandwidth", "2 GB/s", "one two three four five six seven"),),
        numeric=frozenset({"stated"}),
        below=("arithmetic",),
    )
    text = drawn(table, 26, monkeypatch)
    assert max(map(len, text.splitlines())) <= 26
    lines = [line.split() for line in text.splitlines()]
    assert ["embedding_all_", "2", "GB/s"] in lines
    assert ["reduce_"] in lines
    assert ["bandwidth"] in lines
    assert ["one", "two", "three", "four"] in lines


CELLS = st.text("abc_ 1.5€", max_size=12)


@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6),
    st.integers(30, 90),
    st.booleans(),
)
def test_no_cell_is_cut_in_any_table(rows: list[tuple[str, str, str]], width: int, is_below: bool) -> None:
    table = Table(
        title="t",
        columns=("one", "two", "three"),
        rows=tuple(rows),
        numeric=frozenset({"two"}),
        below=("three",) if is_below else (),
    )
    console = Console(file=io.StringIO(), width=width, color_system=None)
    tables._draw(table, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    for row in rows:
        for word in " ".join(row).split():
            for piece in re.findall(r"[^_]+", word):
                assert piece in text
