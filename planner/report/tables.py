"""Tables as data, drawn by rich on a terminal or as plain columns in a log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True, kw_only=True)
class Table:
    """A titled table of texts; `numeric` names the columns that align to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()


def print_tables(
    heading: Sequence[str], tables: Sequence[Table], lines: Sequence[str], out: TextIO, *, is_plain: bool
) -> None:
    """Lines, the first of them bold, then tables, then lines that are marked as notes."""
    if is_plain:
        print("\n".join(heading), file=out)
        for table in tables:
            print(f"\n{plain_text(table)}", file=out)
        if lines:
            print("\n" + "\n".join(f"note: {line}" for line in lines), file=out)
        return
    # rich takes 50 ms to import, which a log or a pipe need not pay.
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=out, highlight=False)
    console.print(Text(heading[0], style="bold"))
    for line in heading[1:]:
        console.print(Text(line))
    for table in tables:
        drawn = RichTable(title=Text(table.title, style="bold"), title_justify="left", box=SIMPLE_HEAD)
        for column in table.columns:
            drawn.add_column(Text(column), justify="right" if column in table.numeric else "left")
        for row in table.rows:
            drawn.add_row(*(Text(cell) for cell in row))
        console.print()
        console.print(drawn, end="")
    console.print()
    for line in lines:
        console.print(Text.assemble(("note: ", "yellow"), line))


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
