"""Whether a text is a CSV or TSV table: a header of names, then rows of as many fields."""

import csv
import io
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import _csv

# csv's default limit is 128 KiB for a field; a document may be longer.
csv.field_size_limit(sys.maxsize)

DELIMITERS = (",", "\t", ";", "|")
NAME = re.compile(r"[A-Za-z_][\w.:/-]{0,63}")
# "First Name", "Review (text)": names that people write, told from prose by complete agreement of the rows.
PHRASE = re.compile(r"[^\W\d][\w .:/()#%?-]{0,39}")
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
MIN_SHARE = 0.5  # of the rows that have the header's number of fields, where the header is one of names
MIN_ROWS = 3


@dataclass(frozen=True, kw_only=True)
class CsvForm:
    """How fields are separated, and whether quotes enclose them. `has_header`: the first row holds names.
    `skips_spaces`: those after a delimiter are none of a field's."""

    delimiter: str
    has_quotes: bool
    has_header: bool
    skips_spaces: bool = False


def judge_csv(head: str, is_complete: bool, field: str) -> CsvForm | None:
    """The form of the table that begins with `head`; None if it is other text.

    Args:
        is_complete: whether `head` is all of the text; otherwise its last row is not judged.
        field: the column that should hold the documents: a header that names it is one.
    """
    first = head.lstrip("\r\n").partition("\n")[0].strip()
    for delimiter in (delimiter for delimiter in DELIMITERS if delimiter in first):
        rows, is_quoted = _read_rows(head, is_complete, delimiter, has_quotes=True)
        if not is_quoted:
            unquoted, _ = _read_rows(head, is_complete, delimiter, has_quotes=False)
            if delimiter != "," and _has_no_quoting(unquoted):
                rows = unquoted
            else:
                is_quoted = True  # the reader names the row where a quote is wrong
        if rows and _has_spaced_header(rows[0], field):
            return CsvForm(delimiter=delimiter, has_quotes=is_quoted, has_header=True, skips_spaces=True)
        has_header = _has_header(rows, field)
        if has_header or _is_table_without_header(rows):
            return CsvForm(delimiter=delimiter, has_quotes=is_quoted, has_header=has_header)
    if first.strip('"') == field:
        rows, is_quoted = _read_rows(head, is_complete, ",", has_quotes=True)
        if is_quoted and len(rows) > 1 and all(len(row) == 1 for row in rows):
            return CsvForm(delimiter=",", has_quotes=True, has_header=True)
    return None


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
    )


def _read_rows(
    head: str, is_complete: bool, delimiter: str, *, has_quotes: bool
) -> tuple[list[list[str]], bool]:
    """The rows that are complete in `head`, up to the first malformed one; whether there was none."""
    form = CsvForm(delimiter=delimiter, has_quotes=has_quotes, has_header=True)
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
    return len({len(row) for row in rows}) == 1 and not any(re.fullmatch('".*"', field) for field in fields)


def _has_header(rows: list[list[str]], field: str) -> bool:
    if not rows or len(rows[0]) < 2 or len(set(rows[0])) < len(rows[0]):
        return False
    header, body = rows[0], rows[1:]
    names = header if header[0] else header[1:]  # pandas writes the index under an empty name
    share = sum(len(row) == len(header) for row in body) / max(1, len(body))
    if all(map(NAME.fullmatch, names)):
        return field in names or share >= MIN_SHARE
    return all(map(PHRASE.fullmatch, names)) and share == 1 and (field in names or len(body) >= MIN_ROWS)


def _has_spaced_header(header: list[str], field: str) -> bool:
    """`id, text`: only where it names the wanted column, since prose has a space after each comma."""
    if len(header) < 2 or not all(name.startswith(" ") for name in header[1:]):
        return False
    names = [name.strip() for name in header]
    return field in names and all(map(NAME.fullmatch, names))


def _is_table_without_header(rows: list[list[str]]) -> bool:
    """Whether rows have the same number of fields, and either a column of numbers or none that begins with a
    space, as prose after a comma does."""
    if len(rows) < MIN_ROWS or len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
        return False
    columns = list(zip(*rows, strict=True))
    if any(all(NUMBER.fullmatch(field.strip()) for field in column) for column in columns):
        return True
    return any(rows[0]) and not any(field.startswith(" ") for row in rows for field in row)
