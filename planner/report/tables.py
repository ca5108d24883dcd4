"""Tables as data, drawn by rich to the width of a terminal, or as plain columns in a log."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, TextIO

from planner.terminal_text import escape_controls, make_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

_GAP = 2  # between columns
_PIECE = re.compile(r"\s*[^\s_]*_+|\s*[^\s_]+|\s+")
_INDENT = 6  # of what is printed under a row
_NARROWEST = 12  # a column of words is not wrapped below this


@dataclass(frozen=True, kw_only=True)
class Table:
    """A titled table of texts; `numeric` names the columns that align to the right.

    On a terminal that is too narrow, `optional` columns are left out, the first one first; then those of
    `below` go to lines of their own under each row. breaks_names: long names may wrap after an underscore.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()
    optional: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    breaks_names: bool = False


def print_tables(
    heading: Sequence[str], tables: Sequence[Table], lines: Sequence[str], out: TextIO, *, is_plain: bool
) -> None:
    """Lines, the first of them bold, then tables, then lines that are marked as notes."""
    if not is_plain:
        draw_tables(make_console(file=out, highlight=False), heading, tables, lines)
        return
    heading, tables, lines = _escaped(heading, tables, lines)
    print("\n".join(heading), file=out)
    for table in tables:
        print(f"\n{plain_text(table)}", file=out)
    if lines:
        print("\n" + "\n".join(f"note: {line}" for line in lines), file=out)


def draw_tables(
    console: "Console", heading: Sequence[str], tables: Sequence[Table], lines: Sequence[str]
) -> None:
    """The same on a terminal, as wide as it is."""
    from rich.text import Text

    heading, tables, lines = _escaped(heading, tables, lines)
    if heading:
        console.print(Text(heading[0], style="bold"))
    for line in heading[1:]:
        console.print(Text(line))
    for table in tables:
        console.print()
        _draw(table, console)
    console.print()
    for line in lines:
        console.print(Text.assemble(("note: ", "yellow"), line))


def _escaped(
    heading: Sequence[str], tables: Sequence[Table], lines: Sequence[str]
) -> tuple[list[str], list[Table], list[str]]:
    """Before columns are measured; the streams escape what is left."""
    escaped = [
        replace(
            table,
            title=escape_controls(table.title),
            rows=tuple(tuple(map(escape_controls, row)) for row in table.rows),
        )
        for table in tables
    ]
    return [escape_controls(line) for line in heading], escaped, [escape_controls(line) for line in lines]


def _draw(table: Table, console: "Console") -> None:
    """A table no wider than the terminal: complete, without optional columns, over two lines, or sideways."""
    from rich.text import Text

    fitting, left_out = fit_columns(table, console.width)
    if fitting is not None:
        console.print(_rich_table(fitting, console.width), end="")
        if left_out:
            console.print(Text(f"  left out on this terminal: {', '.join(left_out)}", style="dim"))
        return
    upper = table
    for name in table.below:
        upper = replace(_without(upper, name), breaks_names=True)
    shortened, left_out = fit_columns(upper, console.width) if table.below else (None, ())
    if shortened is not None:
        console.print(Text(table.title, style="bold"))
        for line in two_line_text(table, shortened, console.width):
            console.print(Text(line), soft_wrap=True)
        if left_out:
            console.print(Text(f"  left out on this terminal: {', '.join(left_out)}", style="dim"))
        return
    for part in turn_sideways(table, console.width):
        console.print(_rich_table(part, console.width), end="")


def fit_columns(table: Table, width: int) -> tuple[Table | None, tuple[str, ...]]:
    """The table with as many optional columns as fit, and those left out; None: it does not fit at all."""
    left_out: list[str] = []
    for name in ("", *table.optional):
        if name:
            if name not in table.columns:
                continue
            table = _without(table, name)
            left_out.append(name)
        if _least_width(table) <= width:
            return table, tuple(left_out)
    return None, ()


def two_line_text(table: Table, upper: Table, width: int) -> list[str]:
    """Rows as text: the columns of `upper`, and those of `below` wrapped under their row."""
    widths = _column_widths(upper, width)
    places = [table.columns.index(name) for name in table.below]
    lines = _wrapped_row(upper, upper.columns, widths)
    lines.append("─" * min(width, sum(widths) + _edges(upper)))
    indent = " " * _INDENT
    for upper_cells, cells in zip(upper.rows, table.rows, strict=True):
        lines += _wrapped_row(upper, upper_cells, widths)
        for i in places:
            lines += textwrap.wrap(cells[i], width, initial_indent=indent, subsequent_indent=indent)
    return lines


def _wrapped_row(table: Table, cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    wrapped = [_wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return [
        (" " * _GAP)
        .join(
            text.rjust(width) if column in table.numeric else text.ljust(width)
            for text, width, column in zip(line, widths, table.columns, strict=True)
        )
        .rstrip()
        for line in zip_longest(*wrapped, fillvalue="")
    ]


def _wrap(text: str, width: int) -> list[str]:
    """Lines of words; a long name goes on after one of its underscores. An indent is kept."""
    lines = [""]
    for piece in _PIECE.findall(text):
        if lines[-1].strip() and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def turn_sideways(table: Table, width: int) -> tuple[Table, ...]:
    """The table with columns as rows, in as many parts as the width needs."""
    parts: list[Table] = []
    rows = list(table.rows)
    while rows:
        number = len(rows)
        while number > 1 and _natural_width(_sideways(table, rows[:number])) > width:
            number -= 1
        part = _sideways(table, rows[:number])
        if _natural_width(part) > width:
            part = replace(part, numeric=frozenset())  # one row, whose cells have to wrap
        parts.append(part)
        rows = rows[number:]
    return tuple(replace(part, title=part.title if part is parts[0] else "") for part in parts)


def _sideways(table: Table, rows: Sequence[tuple[str, ...]]) -> Table:
    """The first column, which names the rows, becomes the heads."""
    heads = tuple(f"{row[0]}{' ' * i}" for i, row in enumerate(rows))  # unlike each other, as numeric needs
    turned = tuple((name, *(row[i + 1] for row in rows)) for i, name in enumerate(table.columns[1:]))
    shown = tuple(row for row in turned if any(cell.strip() for cell in row[1:]))
    return Table(title=table.title, columns=(table.columns[0], *heads), rows=shown, numeric=frozenset(heads))


def _without(table: Table, name: str) -> Table:
    i = table.columns.index(name)
    rows = tuple((*row[:i], *row[i + 1 :]) for row in table.rows)
    return replace(table, columns=(*table.columns[:i], *table.columns[i + 1 :]), rows=rows)


def _rich_table(table: Table, width: int) -> "RichTable":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    title = Text(table.title, style="bold") if table.title else None
    drawn = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0))
    for column, columns_width in zip(table.columns, _column_widths(table, width), strict=True):
        justify = "right" if column in table.numeric else "left"
        drawn.add_column(Text(column.rstrip()), justify=justify, width=columns_width, overflow="fold")  # type: ignore[arg-type]
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn


def _column_widths(table: Table, width: int) -> list[int]:
    """Every column as wide as its cells; where that is too wide the widest columns of words wrap."""
    widths, least = _natural_widths(table), _least_widths(table)
    while sum(widths) + _edges(table) > width:
        shrinkable = [i for i, natural in enumerate(widths) if natural > least[i]]
        if not shrinkable:
            break
        widths[max(shrinkable, key=lambda i: widths[i])] -= 1
    return widths


def _edges(table: Table) -> int:
    return _GAP * len(table.columns) + 1


def _natural_width(table: Table) -> int:
    return sum(_natural_widths(table)) + _edges(table)


def _least_width(table: Table) -> int:
    return sum(_least_widths(table)) + _edges(table)


def _natural_widths(table: Table) -> list[int]:
    return [max(map(_cells, column)) for column in _columns(table)]


def _least_widths(table: Table) -> list[int]:
    """Figures on one line; words no narrower than the longest of them."""
    least = []
    for name, column in zip(table.columns, _columns(table), strict=True):
        natural = max(map(_cells, column))
        if name in table.numeric:
            head = max((_cells(word) for word in name.split()), default=0)
            least.append(max((head, *map(_cells, column[1:]))))
        else:
            found = _PIECE.findall if table.breaks_names else str.split
            words = max((_cells(word.strip()) for cell in column for word in found(cell)), default=0)
            least.append(min(natural, max(words, _NARROWEST)))
    return least


def _columns(table: Table) -> list[tuple[str, ...]]:
    return list(zip(*((name.rstrip() for name in table.columns), *table.rows), strict=True))


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def plain_text(table: Table) -> str:
    """A table as columns of text, no wider than its cells."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in table.numeric else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([table.title, *(f"  {line}" for line in lines)])
