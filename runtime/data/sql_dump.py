"""Dumps of databases in SQL: which column holds the texts, and the program that takes them out."""

import re
from collections import Counter
from collections.abc import Iterator

from runtime.data.foreign import Foreign

# The first comment of mysqldump, pg_dump, phpMyAdmin and others; how sqlite3's .dump begins.
HEADER = re.compile(
    r"\s*(?:--[^\n]*\n)*?(?:-- [^\n]*\b(?:dump|phpMyAdmin)\b|PRAGMA foreign_keys=OFF;\s*BEGIN TRANSACTION;)",
    re.I,
)
STRING = r"\x27(?:[^\x27\\]|\\.|\x27\x27)*\x27"
TABLE = r"[`\"\w.\[\]]+"
INSERT = re.compile(
    rf"INSERT\s+(?:IGNORE\s+)?INTO\s+({TABLE})\s*(?:\(([^)]*)\)\s*)?VALUES\s*((?:{STRING}|[^\x27;])*)",
    re.I | re.S,
)
ROW = re.compile(rf"\(((?:{STRING}|[^\x27()])*)\)", re.S)
VALUE = re.compile(rf"{STRING}|[^,\s\x27]+", re.S)
COPY = re.compile(rf"(?ms)^COPY ({TABLE}) \(([^)]*)\) FROM stdin;\n(.*?)(?:^\\\.$|\Z)")
MIN_ROWS = 3
MIN_SHARE = 0.8  # of the characters that are of inserted rows, where no header says that it is a dump

Column = tuple[str, int]  # the table as it is written, and the column's number


def find_sql_dump(head: str) -> Foreign | None:
    """The dump that begins with `head`; None for other text, programs in SQL too."""
    inserts, copies = list(INSERT.finditer(head)), list(COPY.finditer(head))
    if not inserts and not copies:
        return None
    texts: Counter[Column] = Counter()
    num_rows = 0
    for table, values in (*_inserted(inserts), *_copied(copies)):
        num_rows += 1
        texts.update({(table, n): len(text) for n, text in enumerate(values) if text})
    num_characters = sum(each.end() - each.start() for each in (*inserts, *copies))
    is_dump = HEADER.match(head) or (num_rows >= MIN_ROWS and num_characters >= MIN_SHARE * len(head))
    if not is_dump or not texts:
        return None
    table, number = texts.most_common(1)[0][0]
    names = next((each[2] for each in (*inserts, *copies) if each[1] == table), None) or _created(head, table)
    columns = [name.strip(' `"[]\n') for name in names.split(",")] if names else []
    column = columns[number] if number < len(columns) else f"number {number + 1}"
    program = _copy_program if any(each[1] == table for each in copies) else _insert_program
    name = f"a dump of a database, of which column {column} of table {table.strip('`')} is taken"
    return Foreign(name, program(table, number))


def _inserted(inserts: list[re.Match[str]]) -> Iterator[tuple[str, list[str]]]:
    """The rows of each statement: texts, empty for other values."""
    for each in inserts:
        for row in ROW.findall(each[3]):
            values = VALUE.findall(row)
            yield each[1], [value if value.startswith("'") else "" for value in values]


def _copied(copies: list[re.Match[str]]) -> Iterator[tuple[str, list[str]]]:
    for each in copies:
        for line in each[3].split("\n"):
            if line:
                values = line.split("\t")
                yield each[1], ["" if re.fullmatch(r"\\N|[-\d.: +]*", value) else value for value in values]


def _created(head: str, table: str) -> str | None:
    """The columns' names of CREATE TABLE, with commas between them."""
    found = re.search(
        rf"CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?{re.escape(table)}\s*\((.*?)\n?\s*\)[^,]*;",
        head,
        re.I | re.S,
    )
    if found is None:
        return None
    names = re.findall(r"(?:^|,)\s*([`\"\[]?\w+)", re.sub(r"\([^()]*\)", "", found[1]))
    return ",".join(names)


def _insert_program(table: str, number: int) -> str:
    place = re.escape(table).replace("'", r"\x27")
    return (
        f'import json, re, sys; s = r"{STRING}"; '
        r'u = lambda t: re.sub(r"\\(.)|\x27\x27", lambda m: {"n": "\n", "t": "\t", "r": "\r"}.get('
        r'm[1], m[1]) or "\x27", t); [print(json.dumps({"text": u(v['
        f"{number}][1:-1])"
        r'})) for i in re.finditer(rf"INSERT\s+(?:IGNORE\s+)?INTO\s+'
        f"{_in_quotes(place)}"
        r'\s*(?:\([^)]*\)\s*)?VALUES\s*((?:{s}|[^\x27;])*)", sys.stdin.read(), re.I | re.S) '
        r'for w in re.findall(rf"\(((?:{s}|[^\x27()])*)\)", i[1], re.S) '
        r'for v in [re.findall(rf"{s}|[^,\s\x27]+", w, re.S)] '
        f'if len(v) > {number} and v[{number}][0] == "\\x27"]'
    )


def _copy_program(table: str, number: int) -> str:
    return (
        r"import json, re, sys; "
        r'u = lambda t: re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t", "r": "\r"}.get('
        f'm[1], m[1]), t); [print(json.dumps({{"text": u(v[{number}])}})) '
        rf'for c in re.findall(r"(?ms)^COPY {_in_quotes(re.escape(table))} \([^)]*\) FROM stdin;\n'
        r'(.*?)^\\\.$", sys.stdin.read()) for l in c.split("\n") for v in [l.split("\t")] '
        f'if len(v) > {number} and v[{number}] != r"\\N"]'
    )


def _in_quotes(pattern: str) -> str:
    """The pattern as it may stand between double quotes."""
    return pattern.replace('"', r"\x22")
