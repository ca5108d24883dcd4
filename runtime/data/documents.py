"""Decides what a document is (a text file, a line of JSONL, a row of Parquet or Arrow); reads it in chunks.

A document may be larger than memory, so it comes in chunks of a quarter of a million characters; only the
lines of JSONL and the rows of tables are held whole.
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
CUT_CHARACTERS = 1 << 14  # how far back from a chunk's end a good place to cut is looked for
NUM_ROWS = 256
# Behind a single line break, or before a single space, between two visible characters: byte-level BPE splits
# words there too, so that the cut changes no token. The last is for text that has neither.
CUTS = (re.compile(r"(?<=\S\n)(?=\S)"), re.compile(r"(?<=\S)(?= \S)"), re.compile(r"(?<=\n)"))
# Half of a surrogate pair: JSON can write it, UTF-8 and the tokenizer cannot.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class TextChunk(NamedTuple):
    """A part of one document. `num_mended`: lone surrogates that became U+FFFD."""

    text: str
    ends_document: bool
    num_mended: int = 0


class NotText(Exception):
    """The file is not UTF-8 text; says why."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one pass over the corpus found.

    `sources` are the files to encode, `skipped` those that are not text and were only found in a folder or
    by a glob. Empty documents are left out; `num_bytes` is the documents' UTF-8.
    """

    sources: tuple[Source, ...]
    problems: tuple[Problem, ...]
    skipped: tuple[str, ...]
    num_documents: int
    num_empty: int
    num_bytes: int
    num_mended: int


def survey_corpus(sources: Sequence[Source]) -> Survey:
    """Reads everything once, so that all that is wrong is known before the long work begins."""
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
            found = f"reading stopped after {len(problems)} faults"
            problems.append(data_problem(found, "data without faults", "correct those above first"))
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
    """The documents of one file in order; a faulty row gives a Problem in its place.

    Raises:
        NotText: when a text file turns out not to be one, possibly after some of its chunks.
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
        expected = "the package pyarrow, which reads this kind of file"
        yield data_problem("pyarrow is not installed", expected, "pip install -e '.[parquet]'", source.file)
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
    ) as error:  # pyarrow's errors are ValueErrors or OSErrors
        expected = f"a whole {source.file.suffix} file"
        yield data_problem(f"is damaged: {error}", expected, "replace it, or leave it out", source.file)


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
    """Where a chunk that begins at `start` ends; at least one character more follows it."""
    end = start + CHUNK_CHARACTERS
    first = end - CUT_CHARACTERS
    near = text[first : end + 2]  # two more, for what a pattern looks ahead at
    for pattern in CUTS:
        places = [match.start() for match in pattern.finditer(near) if 0 < match.start() <= CUT_CHARACTERS]
        if places:
            return first + places[-1]
    return end


def _mend(text: str) -> tuple[str, int]:
    if text.isascii() or not LONE_SURROGATE.search(text):
        return text, 0
    # Two halves that were written one after the other are a whole again after this.
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole, whole.count("\ufffd") - text.count("\ufffd")


def _read_text(source: Source) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    num_read = 0
    with source.file.open("rb") as stream:
        while True:
            block = stream.read(READ_BYTES)
            if b"\0" in block:
                raise NotText(f"a zero byte at {num_read + block.index(0)}: binary")
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
        found = f"is not JSON: {error}"
    else:
        if not isinstance(row, dict):
            found = f"is {type(row).__name__}, not an object"
        elif COLUMN not in row:
            found = f"has no key {COLUMN!r}; its keys are: {', '.join(map(str, row)) or 'none'}"
        elif not isinstance(row[COLUMN], str):
            found = f"{COLUMN!r} is {type(row[COLUMN]).__name__}, not a string"
        else:
            return str(row[COLUMN])
    expected = f'one JSON object a line, with its text under "{COLUMN}"'
    return data_problem(found, expected, "correct or remove the line", source.file, number)


def _read_parquet(source: Source) -> Iterator[str | Problem]:
    import pyarrow.parquet  # an extra, and slow to import

    with pyarrow.parquet.ParquetFile(source.file) as table:
        fault = _column_fault(source, table.schema_arrow)
        if fault:
            yield fault
            return
        for batch in table.iter_batches(batch_size=NUM_ROWS, columns=[COLUMN]):
            yield from _strings(batch)


def _read_arrow(source: Source) -> Iterator[str | Problem]:
    """What the package datasets keeps on disk: Arrow's stream format."""
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
        return data_problem(
            f"has no column {COLUMN!r}: {', '.join(schema.names)}", expected, fix, source.file
        )
    kind = schema.field(COLUMN).type
    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if value not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        return data_problem(f"column {COLUMN!r} holds {kind}", expected, fix, source.file)
    return None


def _not_text(source: Source, reason: str) -> Problem:
    expected = "UTF-8 text, .jsonl, .jsonl.gz or .parquet"
    return data_problem(
        f"is not text ({reason})", expected, "convert it to UTF-8, or leave it out", source.file
    )
