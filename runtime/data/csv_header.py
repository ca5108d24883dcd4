"""Whether the rows of a table have a header, the names of their columns, or values in the first row too."""

import re

NAME = re.compile(r"[A-Za-z_][\w.:/-]{0,63}")
# "First Name", "Review (text)": names that people write, told from prose by complete agreement of the rows.
PHRASE = re.compile(r"[^\W\d][\w .:/()#%?-]{0,39}")
# A name that a program would give to a column, told from a text of one word.
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,39}")
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")
MIN_SHARE = 0.5  # of the rows that have the header's number of fields, where the header is one of names
MIN_ROWS = 3
MIN_SPACED_ROWS = 8
MAX_LABELS = 0.3  # different values of a column of labels, of its rows


def is_even(rows: list[list[str]]) -> bool:
    """Whether all rows have the same number of fields."""
    return len({len(row) for row in rows}) == 1


def has_header(rows: list[list[str]], field: str) -> bool:
    if not rows or len(rows[0]) < 2:
        return False
    header, body = rows[0], rows[1:]
    names = header if header[0] else header[1:]  # pandas writes the index under an empty name
    is_ended = names[-1] == "" and (len(names) > 2 or field in names)
    if is_ended and is_even(rows):  # a delimiter ends every row, or several do where a sheet was wider
        names = names[:-1]
        while len(names) > 2 and names[-1] == "":
            names = names[:-1]
    if len(set(names)) < len(names) and not (is_even(rows) and (field in names or len(body) >= MIN_ROWS)):
        return False
    if field not in names and _are_values(header, body):
        return False
    share = sum(len(row) == len(header) for row in body) / max(1, len(body))
    if all(map(NAME.fullmatch, names)):
        return field in names or share >= MIN_SHARE
    return all(map(PHRASE.fullmatch, names)) and share == 1 and (field in names or len(body) >= MIN_ROWS)


def _are_values(header: list[str], body: list[list[str]]) -> bool:
    """Whether the first row is one of values: one comes again below it, or is a sentence like others."""
    even = [row for row in body if len(row) == len(header)]
    if len(even) < 2:
        return False
    columns = list(zip(*even, strict=True))
    if any(name and name in column for name, column in zip(header, columns, strict=True)):
        return True
    return any(
        all(text.rstrip().endswith(SENTENCE_ENDS) for text in (name, *column)) and " " in name
        for name, column in zip(header, columns, strict=True)
    )


def are_sentences(rows: list[list[str]]) -> bool:
    """Whether rows are prose whose commas have no spaces: all end as sentences do, and none has a number."""
    if not rows or any(NUMBER.fullmatch(field.strip()) for row in rows for field in row):
        return False
    return all(row[-1].rstrip().endswith(SENTENCE_ENDS) for row in rows)


def is_spaced(header: list[str]) -> bool:
    """Whether a space follows each delimiter, `id, text`: of prose too."""
    return len(header) > 1 and all(name.startswith(" ") for name in header[1:])


def has_spaced_header(rows: list[list[str]], field: str) -> bool:
    """Whether rows whose first `is_spaced`, read without these spaces, are a table: its header names the
    wanted column, or is above rows of as many fields, one of which is a number or a label in all of them."""
    names, body = rows[0], rows[1:]
    if field in names:
        return all(map(NAME.fullmatch, names))
    if len(body) < MIN_SPACED_ROWS or not is_even(rows) or not all(map(COLUMN.fullmatch, names)):
        return False
    columns = list(zip(*body, strict=True))
    if any(name in column for name, column in zip(names, columns, strict=True)):
        return False
    has_labels = any(
        all(map(NUMBER.fullmatch, column))
        or (len(set(column)) <= MAX_LABELS * len(column) and not any(" " in cell for cell in column))
        for column in columns
    )
    return has_labels and any(" " in cell for column in columns for cell in column)


def is_table_without_header(rows: list[list[str]]) -> bool:
    """Whether rows have the same number of fields, and either a column of numbers or none that begins with a
    space, as prose after a comma does."""
    if len(rows) < MIN_ROWS or not is_even(rows):
        return False
    columns = list(zip(*rows, strict=True))
    if sum(any(column) for column in columns) < 2:  # statements that end with a semicolon
        return False
    if any(all(NUMBER.fullmatch(field.strip()) for field in column) for column in columns):
        return True
    return any(rows[0]) and not any(field.startswith(" ") for row in rows for field in row)
