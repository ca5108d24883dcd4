"""The form of a file, judged by its content: text, JSON, CSV, Parquet or Arrow, each also compressed.

A suffix says nothing: `.json` may be an array or lines, `.txt` may be either, and a Parquet file may have no
suffix at all.
"""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runtime.data.binary import LEAVE_OUT, find_binary
from runtime.data.compression import DECOMPRESSORS, Compression, find_compression, open_content, piped
from runtime.data.csv_form import CsvForm, judge_csv, judge_one_column
from runtime.data.encoding import find_encoding_fault, guess_encoding
from runtime.data.foreign import Foreign, conversion
from runtime.data.foreign_documents import CRAWLED, find_documents, is_crawled_text
from runtime.data.foreign_records import ENCODED, WRAPPED, find_damaged_json, find_foreign_records
from runtime.data.json_values import BETWEEN, JsonDamaged, json_line, parse_json_line, read_json_values
from runtime.data.merge_marks import find_marks, resolution
from runtime.data.naming import Naming, alone, shell_path
from runtime.data.placeholder import Placeholder, find_answer, find_pointer
from runtime.data.token_files import FROM_TOKENS, are_token_ids

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
# The beginning of an object, and of an array of objects.
OBJECT = re.compile(r'\s*\{\s*("|\})')
OBJECTS = re.compile(r'\s*\[\s*\{\s*("|\})')
# An array with an element on each line, and so with commas between them.
ARRAY_OF_LINES = re.compile(r"\s*\[\s*\n?[^\n]*,[ \t\r]*\n")
MIN_SHARE = 0.5  # of the lines that are JSON objects: the others are mistakes
# A line of a JSON object that is spread over lines: a key with its value, or brackets.
MEMBER = re.compile(r'\s*("(\\.|[^"\\])*"\s*:.*|[][{}, ]+)\s*')
MIN_SHARE_OF_MEMBERS = 0.8


FOREIGN = "SW727"  # records in a form that is not read, and a command that converts them
TAKE_OUT_ZEROS = r"tr -d '\000'"
EXPECTED = "text in UTF-8 or with a byte order mark, JSON, CSV, Parquet or Arrow, also compressed"


class NotText(Exception):
    """The file is not text in any form that can be read; says why, and what to do with it.

    is_fault: it should be text, so that it is not skipped where a folder brings it in.
    """

    def __init__(
        self, why: str, fix: str = LEAVE_OUT, code: str = "SW706", *, is_fault: bool = False
    ) -> None:
        self.fix, self.code, self.is_fault = fix, code, is_fault
        super().__init__(why)


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


def judge_form(file: Path, field: str, naming: Naming | None = None) -> Form:
    """The form of the file's content.

    Args:
        field: the key or column that should hold the documents; a table whose header names it is one.
        naming: how a strategy names the file, for the fixes; None: in data.path, and no other.

    Raises:
        NotText: if it is binary, or holds records in a form that is not read here.
        OSError, EOFError, zlib.error, lzma.LZMAError: if it cannot be read or decompressed.
        ImportError: for zstd without pyarrow.
    """
    naming = naming or alone(file)
    with file.open("rb") as stream:
        compression = find_compression(stream.read(16))
    with open_content(file, compression) as content:
        head = content.read(HEAD_BYTES)
        is_complete = len(head) < HEAD_BYTES and not content.read(1)
    for first, kind in TABLES.items():
        if head.startswith(first):
            if compression is not None:
                what = f"{KIND_NAMES[kind]} compressed as a file"
                raise NotText(what, _decompression(compression, naming, ".parquet"))
            return Form(kind=kind)
    inner = find_compression(head)
    if inner is not None and compression is not None:
        what = f"compressed twice: {inner} in {compression}"
        raise NotText(what, _decompression(compression, naming, ".inner"))
    pointer = find_pointer(naming, head, is_complete=is_complete)
    if pointer is not None:
        raise _in_place_of_data(pointer)
    if is_crawled_text(head):
        fix = conversion(CRAWLED, compression, "utf-8", naming)
        raise NotText(f"it looks like {CRAWLED.name}", fix, FOREIGN)
    binary = find_binary(naming, head)
    if binary is not None:
        raise NotText(binary.what, binary.fix)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in head:
        raise with_zero_byte(compression, naming, head.index(0), head)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head, final=is_complete)
    answer = find_answer(naming, text, field, is_complete=is_complete)
    if answer is not None:
        raise _in_place_of_data(answer)
    mark = find_marks(text)
    if mark is not None:
        what = f"text with the marks of an unfinished merge, from line {mark} on"
        raise NotText(what, resolution(compression, naming), "SW747")
    form = _judge_text(
        text, is_complete, field, Form(kind="text", compression=compression, encoding=encoding)
    )
    if isinstance(form, Foreign):
        fix = conversion(form, compression, encoding, naming)
        raise NotText(f"it looks like {form.name}", fix, FOREIGN)
    return form


def _in_place_of_data(found: Placeholder) -> NotText:
    return NotText(found.what, found.fix, found.code, is_fault=found.is_fault)


def with_zero_byte(compression: Compression | None, naming: Naming, offset: int, part: bytes) -> NotText:
    """What a file is that has a zero byte at `offset`, in `part`: binary, or in an encoding with such."""
    if guess_encoding(part) is not None:
        return not_utf8(compression, naming)
    if not _is_text_without_zeros(part):
        if are_token_ids(part):
            return NotText("binary: numbers of 16 or 32 bits, as token ids are stored", FROM_TOKENS)
        return NotText(f"binary: zero byte at offset {offset}")
    file = naming.file
    new = file.with_name(f"{file.stem}.mended{file.suffix if compression is None else ''}")
    command = f"{piped(file, compression, TAKE_OUT_ZEROS)} > {shell_path(new)}"
    fix = f"take its zero bytes out: {naming.then_write(command, new)}"
    return NotText(f"text with a zero byte at offset {offset}", fix)


def _is_text_without_zeros(part: bytes) -> bool:
    """Whether the rest is UTF-8 without other control characters; its last character may be cut off."""
    if part.count(b"\0") * 2 > len(part):
        return False
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(part.replace(b"\0", b""))
    is_printable = all(character.isprintable() or character.isspace() for character in text)
    return bool(text) and is_printable and "\ufffd" not in text


def not_utf8(compression: Compression | None, naming: Naming) -> NotText:
    """What a text is that is not UTF-8."""
    fault = find_encoding_fault(compression, naming)
    return NotText(fault.found, fault.fix, "SW728")


def _decompression(compression: Compression, naming: Naming, suffix: str) -> str:
    file = naming.file
    new = file.with_suffix("") if file.suffix else file.with_name(f"{file.name}{suffix}")
    command = f"{DECOMPRESSORS[compression]} {shell_path(file)} > {shell_path(new)}"
    return f"decompress it: {naming.then_write(command, new)}"


def _judge_text(head: str, is_complete: bool, field: str, plain: Form) -> Form | Foreign:
    def form(kind: Kind, csv: CsvForm | None = None, is_single: bool = False) -> Form:
        return Form(
            kind=kind, compression=plain.compression, encoding=plain.encoding, csv=csv, is_single=is_single
        )

    column = judge_one_column(head, is_complete, field)
    if column is not None:
        return form("csv", column)
    share = _share_of_json_lines(head, is_complete)
    damaged = find_damaged_json(head, is_complete)
    if damaged is not None and (damaged in (ENCODED, WRAPPED) or share < MIN_SHARE):
        return damaged
    if share >= MIN_SHARE:
        return form("json lines")
    if head.lstrip()[:1] == "[" and (_is_array(head, is_complete) or _is_damaged_json(head)):
        return form("json")
    if OBJECT.match(head.lstrip(BETWEEN)) or (head.lstrip()[:1] == "{" and _is_damaged_json(head)):
        return form("json", is_single=_is_single(head, is_complete))
    foreign = find_foreign_records(head, is_complete, field) or find_documents(head, is_complete)
    if foreign is not None:
        return foreign
    table = judge_csv(head, is_complete, field)
    return plain if table is None else form("csv", table)


def _share_of_json_lines(head: str, is_complete: bool) -> float:
    """The share of lines that are a JSON object; 1 if there are several and all are JSON texts or lists."""
    lines = head.split("\n")
    if not is_complete:
        lines.pop()  # cut off
    lines = [text for line in lines if (text := json_line(line))]
    first = next((line for line in lines if line != "null"), "")
    if len(lines) < 2 or not (first[:1] in tuple('{["') or OBJECT.match(lines[-1])):
        return 0.0
    if ARRAY_OF_LINES.match(head):
        return 0.0
    values = [_parse(line) for line in lines]
    if {type(value) for value in values} in ({str}, {list}):
        return 1.0
    return sum(isinstance(value, dict) for value in values) / len(lines)


def _parse(text: str) -> Any:
    try:
        return parse_json_line(text)
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
