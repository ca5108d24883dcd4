"""Documents of the corpus: text files, JSONL lines, Parquet and Arrow rows, read in chunks.

A text file may be larger than memory, so it is read in chunks of a quarter of a million characters. Only a
line of JSONL or a row of a table is held in memory as one string.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from planner.problems import Problem
from runtime.data.corpus import MAX_PROBLEMS, Source, data_problem

COLUMN = "text"
READ_BYTES = 1 << 20
CHUNK_CHARACTERS = 1 << 18
CUT_CHARACTERS = 1 << 14  # how far back from a chunk's end to look for a good place to cut
NUM_ROWS = 256
# After a single line break, or before a single space, between two visible characters: byte-level BPE splits
# words there too, so the cut changes no token. The last pattern is for text that has neither.
CUTS = (re.compile(r"(?<=\S\n)(?=\S)"), re.compile(r"(?<=\S)(?= \S)"), re.compile(r"(?<=\n)"))
# Half of a surrogate pair: JSON can write it, UTF-8 and the tokenizer cannot.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class TextChunk(NamedTuple):
    """A part of one document. `num_mended`: lone surrogates replaced by U+FFFD."""

    text: str
    ends_document: bool
    num_mended: int = 0


class NotText(Exception):
    """The file is not UTF-8 text; says why."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one pass over the corpus found.

    `sources` are the files to encode; `skipped` are files that are not text, found in a folder or by a glob.
    Empty documents are left out; `num_bytes` counts the documents' UTF-8 bytes.
    """

    sources: tuple[Source, ...]
    problems: tuple[Problem, ...]
    skipped: tuple[str, ...]
    num_documents: int
    num_empty: int
    num_bytes: int
    num_mended: int


def survey_corpus(sources: Sequence[Source]) -> Survey:
    """Reads everything once, so that every mistake is reported before the long work begins."""
    kept: list[Source] = []
    problems: list[Problem] = []
    skipped: list[str] = []
    num_documents = num_empty = num_bytes = num_mended = 0
    for source in sources:
        lengths = [0]  # bytes of each document of this file; the last one is still open
        num_mended_here = 0
        try:
            for item in read_chunks(source):
                if isinstance(item, Problem):
                    problems.append(item)
                    if len(problems) == MAX_PROBLEMS:
                        break
                    continue
                lengths[-1] += len(item.text.encode())
                num_mended_here += item.num_mended
                if item.ends_document:
                    lengths.append(0)
        except NotText as reason:
            if source.is_named:
                problems.append(_not_text(source, str(reason)))
            else:
                skipped.append(f"{source.file} ({reason})")
            continue
        kept.append(source)
        num_empty += lengths[:-1].count(0)
        num_documents += len(lengths) - 1 - lengths[:-1].count(0)
        num_bytes += sum(lengths)
        num_mended += num_mended_here
        if len(problems) >= MAX_PROBLEMS:
            found = f"reading stopped after {len(problems)} mistakes"
            problems.append(
                data_problem("SW711", found, "data without mistakes", "correct those above first")
            )
            break
    return Survey(
        sources=tuple(kept),
        problems=tuple(problems),
        skipped=tuple(skipped),
        num_documents=num_documents,
        num_empty=num_empty,
        num_bytes=num_bytes,
        num_mended=num_mended,
    )


def read_chunks(source: Source) -> Iterator[TextChunk | Problem]:
    """The documents of one file, in order; a malformed row gives a Problem in its place.

    Raises:
        NotText: if a text file turns out to be binary, possibly after some of its chunks.
    """
    read_rows = {"jsonl": _read_jsonl, "parquet": _read_parquet, "arrow": _read_arrow}
    try:
        if source.format == "text":
            yield from _cut(_read_text(source))
            return
        for row in read_rows[source.format](source):
            if isinstance(row, Problem):
                yield row
            else:
                yield from _cut((row,))
    except ImportError:
        expected = f"the package pyarrow, which reads {source.format} files"
        fix = "pip install -e '.[parquet]'"
        yield data_problem("SW703", "pyarrow is not installed", expected, fix, source.file)
    # pyarrow's errors are ValueErrors or OSErrors.
    except (OSError, EOFError, zlib.error, ValueError) as error:
        found, expected = f"damaged file: {error}", f"a complete {source.file.suffix} file"
        yield data_problem("SW709", found, expected, "replace it, or leave it out", source.file)


def _cut(parts: Iterable[str]) -> Iterator[TextChunk]:
    """One document, in chunks of CHUNK_CHARACTERS or up to CUT_CHARACTERS less."""
    rest = ""
    num_mended = 0
    for part in parts:
        mended, num_found = _mend(part)
        num_mended += num_found
        rest += mended
        start = 0
        while len(rest) - start > CHUNK_CHARACTERS:
            end = _cut_position(rest, start)
            yield TextChunk(rest[start:end], False)
            start = end
        rest = rest[start:]
    yield TextChunk(rest, True, num_mended)


def _cut_position(text: str, start: int) -> int:
    """The end of a chunk that begins at `start`; at least one more character follows it."""
    end = start + CHUNK_CHARACTERS
    first = end - CUT_CHARACTERS
    near = text[first : end + 2]  # two more, for the patterns' lookahead
    for pattern in CUTS:
        places = [match.start() for match in pattern.finditer(near) if 0 < match.start() <= CUT_CHARACTERS]
        if places:
            return first + places[-1]
    return end


def _mend(text: str) -> tuple[str, int]:
    if text.isascii() or not LONE_SURROGATE.search(text):
        return text, 0
    # Two halves written one after the other become one character again.
    mended = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return mended, mended.count("\ufffd") - text.count("\ufffd")


def _read_text(source: Source) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    num_read = 0
    with source.file.open("rb") as stream:
        while True:
            block = stream.read(READ_BYTES)
            if b"\0" in block:
                raise NotText(f"binary: zero byte at offset {num_read + block.index(0)}")
            try:
                yield decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise NotText(f"not UTF-8 near byte {num_read}: {error.reason}") from error
            if not block:
                return
            num_read += len(block)


def _read_jsonl(source: Source) -> Iterator[str | Problem]:
    opener: Any = gzip.open if source.file.suffix.lower() == ".gz" else open
    with opener(source.file, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.isspace():
                continue
            yield _parse_line(source, number, line)


def _parse_line(source: Source, number: int, line: bytes) -> str | Problem:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        found = f"not JSON: {error}"
    else:
        if not isinstance(row, dict):
            found = f"a JSON {type(row).__name__}, not an object"
        elif COLUMN not in row:
            found = f"no key {COLUMN!r}; keys: {', '.join(map(str, row)) or 'none'}"
        elif not isinstance(row[COLUMN], str):
            found = f"{COLUMN!r} is of type {type(row[COLUMN]).__name__}, not a string"
        else:
            return str(row[COLUMN])
    expected = f'one JSON object per line, with its text under "{COLUMN}"'
    return data_problem("SW707", found, expected, "correct or remove the line", source.file, number)


def _read_parquet(source: Source) -> Iterator[str | Problem]:
    import pyarrow.parquet  # an optional dependency, and slow to import

    with pyarrow.parquet.ParquetFile(source.file) as table:
        fault = _column_fault(source, table.schema_arrow)
        if fault:
            yield fault
            return
        for batch in table.iter_batches(batch_size=NUM_ROWS, columns=[COLUMN]):
            yield from _strings(batch)


def _read_arrow(source: Source) -> Iterator[str | Problem]:
    """The on-disk format of the package datasets: an Arrow stream."""
    import pyarrow.ipc

    with pyarrow.memory_map(str(source.file)) as file, pyarrow.ipc.open_stream(file) as stream:
        fault = _column_fault(source, stream.schema)
        if fault:
            yield fault
            return
        for batch in stream:
            yield from _strings(batch)


def _strings(batch: Any) -> Iterator[str]:
    """The text column of an Arrow record batch; a null is an empty document."""
    for value in batch.column(batch.schema.get_field_index(COLUMN)):
        yield value.as_py() or ""


def _column_fault(source: Source, schema: Any) -> Problem | None:
    import pyarrow

    expected = f"a column {COLUMN!r} of strings"
    fix = f"name the column {COLUMN!r}, or leave the file out"
    if COLUMN not in schema.names:
        found = f"no column {COLUMN!r}; columns: {', '.join(schema.names)}"
        return data_problem("SW708", found, expected, fix, source.file)
    kind = schema.field(COLUMN).type
    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if value not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        return data_problem("SW708", f"column {COLUMN!r} is of type {kind}", expected, fix, source.file)
    return None


def _not_text(source: Source, reason: str) -> Problem:
    expected = "UTF-8 text, .jsonl, .jsonl.gz or .parquet"
    fix = "convert it to UTF-8, or leave it out"
    return data_problem("SW706", f"not a text file ({reason})", expected, fix, source.file)
