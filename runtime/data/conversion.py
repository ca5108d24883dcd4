"""Shell commands that write a file's records as JSON lines of another shape: one line of Python each."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from runtime.data.compression import open_content, piped
from runtime.data.form import HEAD_BYTES, Form
from runtime.data.naming import converted_name, shell_path

# pyarrow 26.0's read_table may abort when Python ends (apache/arrow issues 34314 and 50482).
ARROW = "pyarrow.BufferReader(sys.stdin.buffer.read())"
TABLES = {
    "parquet": ("pyarrow.parquet", f"pyarrow.parquet.ParquetFile({ARROW}).read(use_threads=False)"),
    "arrow file": ("pyarrow", f"pyarrow.ipc.open_file({ARROW}).read_all()"),
    "arrow stream": ("pyarrow", f"pyarrow.ipc.open_stream({ARROW}).read_all()"),
}
# What JSON has no form for: dates, and texts that the table's writer marked as bytes.
OTHERS = 'lambda v: v.decode(errors="replace") if isinstance(v, bytes) else str(v)'
# What a line of JSON lines may have around its value; runtime/data/records.py takes it off too.
AROUND = " ,\\r\\n\\x1e\\ufeff"


# Between objects one after another.
SPLIT = r",?\s*\n(?=\{)"


class Reader(NamedTuple):
    """A Python expression of the records, and the modules that it needs. It reads stdin."""

    expression: str
    modules: tuple[str, ...] = ()


def conversion_command(
    file: Path,
    form: Form,
    converted: str,
    loops: Sequence[str] = (),
    modules: Sequence[str] = (),
    *,
    rows: bool = False,
) -> str | None:
    """The shell command that writes the converted records; None for a form without a reader in one line.

    Args:
        converted: a Python expression of a converted record, of the record `r`.
        loops: what takes `r` out of what the file's reader gives: `for r in r["data"]`, `if r`.
        modules: those that these expressions need.
        rows: a record is a list of fields: the reader is the `t` of the loops, with `r` its rows.
    """
    reader = find_reader(file, form, as_rows=rows)
    if reader is None:
        return None
    names = ", ".join(sorted({"json", *reader.modules, *modules}))
    default = f", default={OTHERS}" if form.kind in TABLES else ""
    first = f"for t in [iter({reader.expression})]" if rows else f"for r in {reader.expression}"
    body = " ".join([first, *loops])
    program = f"import {names}; [print(json.dumps({converted}{default})) {body}]"
    command = piped(file, form.compression, f"python -c {shlex.quote(program)}")
    return f"{command} > {shell_path(converted_name(file))}"


def find_reader(file: Path, form: Form, *, as_rows: bool = False) -> Reader | None:
    """The reader of the form in one line of Python; None if there is none.

    Args:
        as_rows: of a CSV, lists of fields and not objects.
    """
    if form.kind in TABLES:
        module, read = TABLES[form.kind]
        return Reader(f"{read}.to_pylist()", (module, "sys"))
    if form.csv is not None:
        return _csv_reader(form, f'open(0, encoding="{form.encoding}", newline="")', as_rows)
    stdin = f'open(0, encoding="{form.encoding}")'
    if form.kind == "json lines":
        return Reader(
            f'(json.loads(s.strip("{AROUND}"), strict=False) for s in {stdin} if s.strip("[] \\r\\n"))'
        )
    assert form.kind == "json", form
    head = _head(file, form).lstrip("\ufeff \t\r\n")
    if form.is_single:
        return Reader(f"[json.load({stdin})]")
    if head.startswith("["):
        return Reader(f"json.load({stdin})")
    if _can_be_split(head):
        return Reader(f'map(json.loads, re.split(r"{SPLIT}", {stdin}.read().strip(", \\n")))', ("re",))
    return None


def _can_be_split(head: str) -> bool:
    """Whether a value begins at each line that begins with a brace, as in objects written with indents."""
    pieces = re.split(SPLIT, head)
    try:
        return len(pieces) > 1 and all(isinstance(json.loads(piece), dict) for piece in pieces[:-1])
    except (ValueError, RecursionError):
        return False


def _csv_reader(form: Form, stdin: str, as_rows: bool) -> Reader:
    assert form.csv is not None
    modules = ["csv", "sys"]
    lines = stdin
    if form.csv.num_skipped:
        modules.append("itertools")
        lines = f"itertools.islice({stdin}, {form.csv.num_skipped}, None)"
    arguments = "" if form.csv.delimiter == "," else f", delimiter={_literal(form.csv.delimiter)}"
    arguments += "" if form.csv.has_quotes else ", quoting=3"
    arguments += r', doublequote=False, escapechar="\\"' if form.csv.has_escapes else ""
    arguments += ", skipinitialspace=True" if form.csv.skips_spaces else ""
    # A document may be longer than csv's limit of 128 KiB for a field.
    limit = "csv.field_size_limit(sys.maxsize) and "
    return Reader(f"{limit}csv.{'r' if as_rows else 'DictR'}eader({lines}{arguments})", tuple(modules))


def _literal(character: str) -> str:
    return f'"{character}"' if character.isprintable() else f'"\\x{ord(character):02x}"'


def _head(file: Path, form: Form) -> str:
    with open_content(file, form.compression) as content:
        return content.read(HEAD_BYTES).decode(form.encoding, "replace")
