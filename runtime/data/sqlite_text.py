"""The column of an SQLite database that holds its texts, and the command that writes them as JSON lines."""

import shlex
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from runtime.data.naming import Naming, converted_name, shell_path

NUM_SAMPLED = 100  # rows of each table
MAX_TABLES = 100


class TextColumn(NamedTuple):
    """A table and one of its columns."""

    table: str
    column: str

    @property
    def place(self) -> str:
        return f"column {self.column} of table {self.table}"

    def fix(self, naming: Naming) -> str:
        """The command, and the override that names the result."""
        table, column = (name.replace('"', '""') for name in self)
        query = f'SELECT "{column}" FROM "{table}" WHERE "{column}" IS NOT NULL'
        program = (
            'import json, sqlite3, sys; [print(json.dumps({"text": text})) '
            "for (text,) in sqlite3.connect(sys.argv[1]).execute(sys.argv[2])]"
        )
        new = converted_name(naming.file)
        arguments = f"{shlex.quote(program)} {shell_path(naming.file)} {shlex.quote(query)}"
        command = f"python -c {arguments} > {shell_path(new)}"
        return f"write its texts as JSON lines: {naming.then_write(command, new)}"


def find_text_column(file: Path) -> TextColumn | None:
    """The column with the most text in the first rows; None without one, or if the file cannot be read."""
    lengths: Counter[TextColumn] = Counter()
    address = f"{file.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (table,) in tables.fetchmany(MAX_TABLES):
                name = str(table).replace('"', '""')
                rows = database.execute(f'SELECT * FROM "{name}" LIMIT {NUM_SAMPLED}')
                columns = [description[0] for description in rows.description]
                for row in rows:
                    for column, value in zip(columns, row, strict=True):
                        lengths[TextColumn(table, column)] += len(value) if isinstance(value, str) else 0
    except sqlite3.Error:
        return None
    found, length = lengths.most_common(1)[0] if lengths else (None, 0)
    return found if length else None
