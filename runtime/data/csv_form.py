"""Whether a text is a CSV or TSV table: a header of names, then rows of as many fields."""

import csv
import io
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from runtime.data.csv_header import (
    COLUMN,
    MIN_ROWS,
    NAME,
    are_sentences,
    has_header,
    has_spaced_header,
    is_even,
    is_spaced,
    is_table_without_header,
)

if TYPE_CHECKING:
    import _csv

# csv's default limit is 128 KiB for a field; a document may be longer.
csv.field_size_limit(sys.maxsize)

# The last two are of programs that need a character that no text has (Hive, ASCII's unit separator).
DELIMITERS = (",", "\t", ";", "|", "\x01", "\x1f")
# Too common in logs, settings and formulas: only below a header that leaves no doubt, of so many columns.
DOUBTFUL = {":": 3, "^": 2, "~": 2}
SPECIAL = re.compile(r"<\|\w+\|>")  # <|im_start|>: the bars of a special token delimit nothing
EXCEL = re.compile(r"sep=([^\r\n])\r?\n")  # the first line by which Excel is told the delimiter
COMMENT = "# \t"  # what a header may have before it
COMMENTS = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)+")
TITLE = re.compile(r"[^\W\d][\w /()#%-]{0,39}(?<! )")  # no sentence
MAX_TITLE_LINES = 12


@dataclass(frozen=True, kw_only=True)
class CsvForm:
    """How fields are separated, and whether quotes enclose them. `has_header`: the first row holds names.
    `skips_spaces`: those after a delimiter are none of a field's. `num_skipped`: lines before the first row,
    of comments, a title or Excel's `sep=;`. `has_escapes`: a quote in a field is `\\"` (MySQL)."""

    delimiter: str
    has_quotes: bool
    has_header: bool
    skips_spaces: bool = False
    num_skipped: int = 0
    has_escapes: bool = False


def judge_csv(head: str, is_complete: bool, field: str) -> CsvForm | None:
    """The form of the table that begins with `head`; None if it is other text.

    Args:
        is_complete: whether `head` is all of the text; otherwise its last row is not judged.
        field: the column that should hold the documents: a header that names it is one.
    """
    excel = EXCEL.match(head)
    if excel:
        form, _ = _judge_delimiter(head[excel.end() :], is_complete, excel[1], field)
        form = form or CsvForm(delimiter=excel[1], has_quotes=True, has_header=True)
        return replace(form, num_skipped=1)
    comments = COMMENTS.match(head)
    if comments and "#" in comments[0]:
        num_lines = comments[0].count("\n")
        form = _judge_rows(head[comments.end() :], is_complete, field, is_doubtful=True)
        if form is not None:
            return replace(form, num_skipped=num_lines)
        # Or the comment is the header.
        start = head.rstrip("\n").rfind("\n", 0, comments.end() - 1) + 1
        form = _judge_rows(head[start:].lstrip(COMMENT), is_complete, field, is_doubtful=True)
        return form and replace(form, num_skipped=num_lines - 1)
    form = _judge_rows(head, is_complete, field)
    if form is not None and form.has_header:
        return form
    return _judge_below_title(head, is_complete, field, is_table=form is not None) or form


def _judge_below_title(head: str, is_complete: bool, field: str, *, is_table: bool) -> CsvForm | None:
    """The table below lines of a title, which have fewer fields than its header.

    Prose has such lines too: the header names the wanted column, or it is of names only above rows that all
    have as many fields, and something else than names.

    Args:
        is_table: whether all is a table without a header, if the title is its first row.
    """
    lines = head.splitlines(keepends=True)
    for num_skipped in range(1, min(MAX_TITLE_LINES, len(lines) - 1)):
        first = lines[num_skipped].strip()
        for delimiter in (delimiter for delimiter in DELIMITERS if delimiter in first):
            form, rows = _judge_delimiter("".join(lines[num_skipped:]), is_complete, delimiter, field)
            if form is None or not form.has_header or len(rows) < 2 or not is_even(rows):
                continue
            titles = [line.strip().split(delimiter) for line in lines[:num_skipped]]
            if any(sum(map(bool, title)) >= len(rows[0]) for title in titles):
                continue
            if field in rows[0] or (not is_table and delimiter != "|" and _is_above_others(rows)):
                return replace(form, num_skipped=num_skipped)
    return None


def _is_above_others(rows: list[list[str]]) -> bool:
    """Whether a header of names is above rows that have other things than names."""
    is_other = any(cell and not NAME.fullmatch(cell) for row in rows[1:] for cell in row)
    return (
        is_other
        and all(map(COLUMN.fullmatch, rows[0]))
        and _agrees(rows, rows[0][0], 2)
        and len(rows) > MIN_ROWS
    )


def _judge_rows(head: str, is_complete: bool, field: str, *, is_doubtful: bool = False) -> CsvForm | None:
    """`is_doubtful`: a comment comes first, as in source code and Markdown; every row has to agree."""
    first = head.lstrip("\r\n").partition("\n")[0].strip()
    for delimiter in (delimiter for delimiter in DELIMITERS if delimiter in first):
        form, rows = _judge_delimiter(head, is_complete, delimiter, field)
        if form is not None and (not is_doubtful or (form.has_header and _agrees(rows, field))):
            return form
    for delimiter, num_columns in DOUBTFUL.items():
        if delimiter not in first:
            continue
        form, rows = _judge_delimiter(head, is_complete, delimiter, field)
        if form is None or len(rows) < 2 or not is_even(rows):
            continue
        # With spaces after it, or without a row below, it is a key of settings, `text: one`.
        is_table = form.has_header and not form.skips_spaces and _agrees(rows, field, num_columns)
        if is_table and (delimiter == ":" or field in rows[0] or _is_above_others(rows)):
            return form
        if delimiter != ":" and not form.has_header and len(rows[0]) > 2 and len(rows) > MIN_ROWS:
            return form
    return judge_one_column(head, is_complete, field)


def _judge_delimiter(
    head: str, is_complete: bool, delimiter: str, field: str
) -> tuple[CsvForm | None, list[list[str]]]:
    """The form of the table with this delimiter, None if it is none; the rows that were read."""
    if delimiter == "|" and SPECIAL.search(head):
        return None, []
    rows, is_quoted = _read_rows(head, is_complete, delimiter, has_quotes=True)
    if not is_quoted and '\\"' in head:
        escaped, is_escaped = _read_rows(head, is_complete, delimiter, has_quotes=True, has_escapes=True)
        if is_escaped and is_even(escaped) and has_header(escaped, field):
            return CsvForm(delimiter=delimiter, has_quotes=True, has_header=True, has_escapes=True), escaped
    if not is_quoted:
        unquoted, _ = _read_rows(head, is_complete, delimiter, has_quotes=False)
        if delimiter != "," and _has_no_quoting(unquoted):
            rows = unquoted
        else:
            is_quoted = True  # the reader names the row where a quote is wrong
    if rows and is_spaced(rows[0]):
        spaced, is_whole = _read_rows(head, is_complete, delimiter, has_quotes=is_quoted, skips_spaces=True)
        if is_whole and has_spaced_header(spaced, field):
            form = CsvForm(delimiter=delimiter, has_quotes=is_quoted, has_header=True, skips_spaces=True)
            return form, spaced
    is_prose = delimiter in ",;" and are_sentences(rows)
    has_names = has_header(rows, field) and not (is_prose and field not in rows[0])
    if has_names or (is_table_without_header(rows) and not is_prose):
        return CsvForm(delimiter=delimiter, has_quotes=is_quoted, has_header=has_names), rows
    return None, rows


def _agrees(rows: list[list[str]], field: str, num_columns: int = 2) -> bool:
    """Whether the header, the first row, names the column, or all of several rows have its number of
    fields."""
    if field in [name.strip() for name in rows[0]]:
        return True
    # A space after each delimiter is prose's, or that of settings.
    has_spaces = any(cell.startswith(" ") for row in rows for cell in row)
    return not has_spaces and len(rows[0]) >= num_columns and len(rows) > MIN_ROWS and is_even(rows)


def judge_one_column(head: str, is_complete: bool, field: str) -> CsvForm | None:
    """The form of a table of one column: its name above rows of one field, or rows that only a CSV has.

    Lines of JSON texts look the same, but the first of them is a text like the others, and a quote in one has
    a backslash before it, not another quote.
    """
    rows, is_quoted = _read_rows(head, is_complete, ",", has_quotes=True)
    if not is_quoted or not rows or any(len(row) != 1 for row in rows):
        return None
    form = CsvForm(delimiter=",", has_quotes=True, has_header=True)
    name = rows[0][0]
    if name == field:
        return form if len(rows) > 1 else None
    lines = [line.rstrip("\r") for line in head.strip("\r\n").split("\n")]
    if not lines[-1].endswith('"') and not is_complete and len(lines) > 1:
        lines.pop()
    if len(rows) <= MIN_ROWS or not all(map(_is_in_quotes, lines[1:])):
        return form if _is_json_below(head, lines[0]) else None
    kind = COLUMN if COLUMN.fullmatch(name) else TITLE
    is_named = kind.fullmatch(name) and not any(kind.fullmatch(row[0]) for row in rows[1:])
    if is_named and (_is_in_quotes(lines[0]) or kind is COLUMN):
        return form
    is_doubled = any('""' in line[1:-1] for line in lines) and not any('\\"' in line for line in lines)
    return replace(form, has_header=False) if is_doubled and _is_in_quotes(lines[0]) else None


def _is_in_quotes(line: str) -> bool:
    return len(line) > 1 and line.startswith('"') and line.endswith('"')


def _is_json_below(head: str, first: str) -> bool:
    """Whether what is below the first line is JSON in quotes, as a CSV has messages."""
    body = head.strip().removeprefix(first).strip()
    return first.isidentifier() and body.startswith('"[{') and '""' in body


def open_csv(lines: Iterable[str], form: CsvForm) -> "_csv.Reader":
    """csv's reader of the rows; raises csv.Error where a quote is wrong. Lines keep their ends."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if form.has_quotes else csv.QUOTE_NONE
    # strict: a quote that does not close is an error, not a field as long as the file.
    return csv.reader(
        lines,
        delimiter=form.delimiter,
        quoting=quoting,
        strict=form.has_quotes,
        skipinitialspace=form.skips_spaces,
        doublequote=not form.has_escapes,
        escapechar="\\" if form.has_escapes else None,
    )


def _read_rows(
    head: str,
    is_complete: bool,
    delimiter: str,
    *,
    has_quotes: bool,
    has_escapes: bool = False,
    skips_spaces: bool = False,
) -> tuple[list[list[str]], bool]:
    """The rows that are complete in `head`, up to the first malformed one; whether there was none."""
    form = CsvForm(
        delimiter=delimiter,
        has_quotes=has_quotes,
        has_header=True,
        has_escapes=has_escapes,
        skips_spaces=skips_spaces,
    )
    lines = io.StringIO(head, newline="")
    rows = []
    try:
        for row in open_csv(lines, form):
            if row:
                rows.append(row)
    except csv.Error:
        # An open quote at the end of a head that was cut off is none of the file's mistakes.
        return rows, not is_complete and not lines.read(1)
    return rows if is_complete or len(rows) < 2 else rows[:-1], True


def _has_no_quoting(rows: list[list[str]]) -> bool:
    """Whether the rows fit together with quotes as characters of the text, and none encloses a field."""
    fields = [field for row in rows for field in row]
    return is_even(rows) and not any(re.fullmatch('".*"', field) for field in fields)
