"""The form of a file, judged by its content: text, JSON, CSV, Parquet or Arrow, each also compressed.

A suffix says nothing: `.json` may be an array or lines, `.txt` may be either, and a Parquet file may have no
suffix at all.
"""

import codecs
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runtime.data.compression import Compression, find_compression, open_content
from runtime.data.csv_form import CsvForm, judge_csv
from runtime.data.json_values import JsonDamaged, read_json_values

Kind = Literal["text", "json lines", "json", "csv", "parquet", "arrow file", "arrow stream"]
HEAD_BYTES = 1 << 18
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
TABLES: dict[bytes, Kind] = {
    b"PAR1": "parquet",
    b"ARROW1\0\0": "arrow file",
    b"\xff\xff\xff\xff": "arrow stream",
}
NOT_TEXT = {
    b"PK\x03\x04": "a ZIP archive or an Office document",
    b"%PDF-": "a PDF document",
    b"{\\rtf": "an RTF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x7fELF": "a program",
    b"SQLite format 3": "an SQLite database",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
}
TAR_MARK = slice(257, 262)
# The beginning of an object, and of an array of objects.
OBJECT = re.compile(r'\s*\{\s*("|\})')
OBJECTS = re.compile(r'\s*\[\s*\{\s*("|\})')
MIN_SHARE = 0.5  # of the lines that are JSON objects: the others are mistakes
# A line of a JSON object that is spread over lines: a key with its value, or brackets.
MEMBER = re.compile(r'\s*("(\\.|[^"\\])*"\s*:.*|[][{}, ]+)\s*')
MIN_SHARE_OF_MEMBERS = 0.8


class NotText(Exception):
    """The file is not text in any form that can be read; says why."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How to read a file. `is_single`: it holds one JSON object, as a file of settings does."""

    kind: Kind
    compression: Compression | None = None
    encoding: str = "utf-8-sig"
    csv: CsvForm | None = None
    is_single: bool = False

    def __str__(self) -> str:
        name = "TSV" if self.csv and self.csv.delimiter == "\t" else KIND_NAMES[self.kind]
        return name if self.compression is None else f"{name} in {self.compression}"


KIND_NAMES: dict[Kind, str] = {
    "text": "text",
    "json lines": "JSON lines",
    "json": "JSON",
    "csv": "CSV",
    "parquet": "Parquet",
    "arrow file": "Arrow",
    "arrow stream": "Arrow",
}


def judge_form(file: Path, field: str) -> Form:
    """The form of the file's content.

    Args:
        field: the key or column that should hold the documents; a table whose header names it is one.

    Raises:
        NotText: if it is binary in a form that is not read here.
        OSError, EOFError, zlib.error, lzma.LZMAError: if it cannot be read or decompressed.
        ImportError: for zstd without pyarrow.
    """
    with file.open("rb") as stream:
        compression = find_compression(stream.read(8))
    with open_content(file, compression) as content:
        head = content.read(HEAD_BYTES)
        is_complete = len(head) < HEAD_BYTES and not content.read(1)
    for first, kind in TABLES.items():
        if head.startswith(first):
            if compression is not None:
                raise NotText(f"{KIND_NAMES[kind]} compressed as a file: decompress it first")
            return Form(kind=kind)
    for first, what in NOT_TEXT.items():
        if head.startswith(first):
            raise NotText(what)
    if head[TAR_MARK] == b"ustar":
        raise NotText("a tar archive: unpack it first")
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in head:
        raise NotText(f"binary: zero byte at offset {head.index(0)}")
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head, final=is_complete)
    return _judge_text(
        text, is_complete, field, Form(kind="text", compression=compression, encoding=encoding)
    )


def _judge_text(head: str, is_complete: bool, field: str, plain: Form) -> Form:
    def form(kind: Kind, csv: CsvForm | None = None, is_single: bool = False) -> Form:
        return Form(
            kind=kind, compression=plain.compression, encoding=plain.encoding, csv=csv, is_single=is_single
        )

    if _share_of_json_lines(head, is_complete) >= MIN_SHARE:
        return form("json lines")
    if head.lstrip()[:1] == "[" and (_is_array(head, is_complete) or _is_damaged_json(head)):
        return form("json")
    if OBJECT.match(head) or (head.lstrip()[:1] == "{" and _is_damaged_json(head)):
        return form("json", is_single=_is_single(head, is_complete))
    table = judge_csv(head, is_complete, field)
    return plain if table is None else form("csv", table)


def _share_of_json_lines(head: str, is_complete: bool) -> float:
    """The share of lines that are a JSON object; 1 if there are several and all are JSON texts or lists."""
    lines = head.split("\n")
    if not is_complete:
        lines.pop()  # cut off
    lines = [line for line in lines if line.strip()]
    if len(lines) < 2 or not (lines[0].lstrip()[:1] in tuple('{["') or OBJECT.match(lines[-1])):
        return 0.0
    values = [_parse(line) for line in lines]
    if {type(value) for value in values} in ({str}, {list}):
        return 1.0
    return sum(isinstance(value, dict) for value in values) / len(lines)


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_array(head: str, is_complete: bool) -> bool:
    """Whether the text is a JSON array, or one of objects with mistakes; `[1] A reference.` is neither."""
    if OBJECTS.match(head):
        return True
    num_values = 0
    try:
        for _ in read_json_values([head]):
            num_values += 1
    except JsonDamaged:
        return num_values > 0 and not is_complete
    return True


def _is_damaged_json(head: str) -> bool:
    """Whether most lines are members of JSON objects, although the beginning is not JSON."""
    lines = [line for line in head.split("\n")[:-1] if line.strip()]
    num_members = sum(MEMBER.fullmatch(line) is not None for line in lines)
    return len(lines) >= 3 and ":" in head and num_members >= MIN_SHARE_OF_MEMBERS * len(lines)


def _is_single(head: str, is_complete: bool) -> bool:
    """Whether the file holds one object, perhaps with mistakes, not several one after another."""
    values = read_json_values([head])
    try:
        next(values)
        return is_complete and next(values, None) is None
    except JsonDamaged:
        return True
