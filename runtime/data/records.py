"""Records of a corpus file: objects of JSON, rows of CSV, Parquet and Arrow, with the place of each."""

import csv
import io
import lzma
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple

from runtime.data.compression import open_content
from runtime.data.corpus import Source
from runtime.data.csv_form import COMMENT, open_csv
from runtime.data.encoding import find_encoding_fault
from runtime.data.form import Form
from runtime.data.json_values import JsonDamaged, json_line, parse_json_line, read_json_values

NUM_ROWS = 256
READ_CHARACTERS = 1 << 20
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, csv.Error, ValueError)


class Record(NamedTuple):
    """One object or row, or a text of an array. `place` is its line, in Parquet and Arrow its row."""

    place: int
    value: dict[str, Any] | str


class MalformedRecord(NamedTuple):
    """A line or row that is not a record of the file's form; the rest of the file can be read.

    fields: of a JSON list.
    """

    place: int
    why: str
    fields: tuple[Any, ...] | None = None


class KeysRepeated(Exception):
    """Several columns of the table have the name; `names` are its columns."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        super().__init__(", ".join(self.names))


class KeysMissing(Exception):
    """None of the keys is a column of the table; `names` are its columns."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        super().__init__(", ".join(self.names))


def read_records(
    source: Source, form: Form, keys: Collection[str] | None = None
) -> Iterator[Record | MalformedRecord]:
    """The records of a file whose form is not text, in order.

    Args:
        keys: of a table only these columns are read; those that it lacks are left out. None: all.

    Raises:
        KeysMissing: if a table has none of `keys`.
        KeysRepeated: if two columns have the name of one.
        ImportError: if pyarrow is needed and missing.
        DAMAGE: if the file is damaged or incomplete, possibly after some of its records.
    """
    if form.kind == "parquet":
        return _read_parquet(source, keys)
    if form.kind in ("arrow file", "arrow stream"):
        return _read_arrow(source, form, keys)
    if form.kind == "csv":
        return _read_csv(source, form, keys)
    if form.kind == "json lines":
        return _read_json_lines(source, form)
    assert form.kind == "json", form
    return _read_json(source, form)


def open_text(source: Source, form: Form, newline: str) -> io.TextIOWrapper:
    """The characters of a text file; `newline` as for open()."""
    content: BinaryIO = open_content(source.file, form.compression)
    return io.TextIOWrapper(content, form.encoding, newline=newline)


def _read_json_lines(source: Source, form: Form) -> Iterator[Record | MalformedRecord]:
    is_utf8 = False  # known to be, in spite of a line that is not
    with _open_lines(source, form) as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            try:
                text = json_line(line.decode("utf-8"))
                value = parse_json_line(text) if text else None
            except (ValueError, RecursionError) as error:
                if isinstance(error, UnicodeDecodeError) and not is_utf8:
                    if find_encoding_fault(form.compression, source.naming).is_another:
                        raise
                    is_utf8 = True
                yield MalformedRecord(number, f"not JSON: {error}")
                continue
            if text:
                yield _json_record(number, value)


def _json_record(line: int, value: Any) -> Record | MalformedRecord:
    """An object, or a text that is a document by itself."""
    if isinstance(value, (dict, str)):
        return Record(line, value)
    fields = tuple(value) if isinstance(value, list) else None
    kind = "null" if value is None else f"a JSON {type(value).__name__}"
    return MalformedRecord(line, f"{kind}, not an object", fields)


@contextmanager
def _open_lines(source: Source, form: Form) -> Iterator[Iterable[bytes]]:
    """The lines in UTF-8, as bytes: a character that is not is a mistake of its line alone."""
    if form.encoding == "utf-8-sig":
        with open_content(source.file, form.compression) as content:
            yield content
    else:
        with open_text(source, form, "\n") as text:
            yield (line.encode("utf-8", "surrogatepass") for line in text)


def _read_json(source: Source, form: Form) -> Iterator[Record | MalformedRecord]:
    with open_text(source, form, "\n") as stream:
        parts = iter(lambda: stream.read(READ_CHARACTERS), "")
        try:
            for line, value in read_json_values(parts):
                yield _json_record(line, value)
        except JsonDamaged as error:
            yield MalformedRecord(error.line, f"not JSON from here on: {error}")


def _read_csv(source: Source, form: Form, keys: Collection[str] | None) -> Iterator[Record | MalformedRecord]:
    assert form.csv is not None
    with open_text(source, form, "") as stream:
        for _ in range(form.csv.num_skipped):
            next(stream)
        rows = open_csv(stream, form.csv)
        begin = first = 1 + form.csv.num_skipped
        try:
            header: list[str] = next((row for row in rows if row), []) if form.csv.has_header else []
            if header and header[0].startswith("#"):
                header[0] = header[0].lstrip(COMMENT)
            if keys is not None and not set(keys) & set(header):
                raise KeysMissing(header)
            if any(header.count(key) > 1 for key in keys or ()):
                raise KeysRepeated(header)
            begin = first + rows.line_num
            for row in rows:
                if len(row) == len(header):
                    # An empty field is what null is elsewhere.
                    yield Record(
                        begin, {name: value or None for name, value in zip(header, row, strict=True)}
                    )
                elif row:
                    yield MalformedRecord(begin, f"{len(row)} fields in a table of {len(header)} columns")
                begin = first + rows.line_num
        except csv.Error as error:
            yield MalformedRecord(begin, f"not {form} from here on: {error}")


def _read_parquet(source: Source, keys: Collection[str] | None) -> Iterator[Record | MalformedRecord]:
    import pyarrow.parquet  # an optional dependency, and slow to import

    with _arrow_damage(), pyarrow.parquet.ParquetFile(source.file) as table:
        columns = _columns(table.schema_arrow.names, keys)
        number = 0
        for batch in table.iter_batches(batch_size=NUM_ROWS, columns=columns):
            for row in _decoded(batch).to_pylist():
                number += 1
                yield Record(number, row)


def _read_arrow(
    source: Source, form: Form, keys: Collection[str] | None
) -> Iterator[Record | MalformedRecord]:
    """Arrow's stream format, which the package datasets writes, and its file format."""
    import pyarrow.ipc

    with _arrow_damage(), pyarrow.memory_map(str(source.file)) as file:
        number = 0
        for batch in _batches(pyarrow.ipc, file, form):
            batch.validate(full=True)  # or damaged offsets would read memory that is not the file's
            columns = _columns(batch.schema.names, keys)
            for start in range(0, batch.num_rows, NUM_ROWS):
                for row in _decoded(batch.select(columns).slice(start, NUM_ROWS)).to_pylist():
                    number += 1
                    yield Record(number, row)


def _decoded(batch: Any) -> Any:
    """The rows with columns of bytes as text where they are UTF-8: older writers mark no text as such."""
    import pyarrow

    for place, field in enumerate(batch.schema):
        kind = field.type
        if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
            with suppress(pyarrow.ArrowInvalid):  # an image
                text = batch.column(place).cast(pyarrow.large_string())
                batch = batch.set_column(place, field.name, text)
    return batch


@contextmanager
def _arrow_damage() -> Iterator[None]:
    """Makes a ValueError of pyarrow's errors, which may also be a MemoryError, a KeyError or a TypeError."""
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error


def _batches(ipc: Any, file: Any, form: Form) -> Iterator[Any]:
    if form.kind == "arrow stream":
        with ipc.open_stream(file) as stream:
            yield from stream
        return
    with ipc.open_file(file) as table:
        for number in range(table.num_record_batches):
            yield table.get_batch(number)


def _columns(names: list[str], keys: Collection[str] | None) -> list[str]:
    if keys is None:
        return names
    chosen = [name for name in names if name in keys]
    if not chosen:
        raise KeysMissing(names)
    return chosen
