"""Pieces of an HTML page: tables, lists, facts; every text in them is escaped."""

from collections.abc import Collection, Sequence

from launch.run_report.svg import safe


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], numeric: Collection[str] = ()) -> str:
    """A table that scrolls where the page is narrower."""
    css = [' class="n"' if column in numeric else "" for column in columns]
    head = "".join(f"<th{kind}>{safe(column)}</th>" for column, kind in zip(columns, css, strict=True))
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{kind}>{safe(cell)}</td>" for cell, kind in zip(row, css, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def facts(items: Sequence[tuple[str, str]]) -> str:
    """Figures that are read first."""
    cells = "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in items)
    return f'<dl class="facts">{cells}</dl>'


def bullets(items: Sequence[str], css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return "<ul>" + "".join(f"<li{kind}>{safe(item)}</li>" for item in items) + "</ul>"


def paragraph(text: str, css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return f"<p{kind}>{safe(text)}</p>"


def heading(level: int, text: str) -> str:
    return f"<h{level}>{safe(text)}</h{level}>"
