"""Documents of the corpus, read in chunks: a text file is one, and so is the text of each record.

A text file may be larger than memory, so it is read in chunks of a quarter of a million characters. Only a
record is held in memory as one string.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from planner.problems import Problem
from runtime.data.compression import READ_BYTES, open_content
from runtime.data.corpus import Source, data_problem, unreadable
from runtime.data.form import EXPECTED, Form, NotText, judge_form, not_utf8, with_zero_byte
from runtime.data.record_faults import RecordFaults, keys_missing, keys_repeated
from runtime.data.records import DAMAGE, KeysMissing, KeysRepeated, MalformedRecord, read_records
from runtime.data.shape_fix import holds_records
from runtime.data.text_field import NoText, extract_text, top_keys
from runtime.data.threads import is_thread, thread_fix

CHUNK_CHARACTERS = 1 << 18
CUT_CHARACTERS = 1 << 14  # how far back from a chunk's end to look for a good place to cut
# After a single line break, or before a single space, between two visible characters: byte-level BPE splits
# words there too, so the cut changes no token. The last pattern is for text that has neither.
CUTS = (re.compile(r"(?<=\S\n)(?=\S)"), re.compile(r"(?<=\S)(?= \S)"), re.compile(r"(?<=\n)"))
# Half of a surrogate pair: JSON can write it, UTF-8 and the tokenizer cannot.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class TextChunk(NamedTuple):
    """A part of one document. `num_mended`: lone surrogates replaced by U+FFFD.

    `answers`: of a conversation, the characters of each answer, from start to stop. `is_rejected`: it has no
    text because its record says that the answer is a bad one.
    """

    text: str
    ends_document: bool
    num_mended: int = 0
    answers: tuple[tuple[int, int], ...] = ()
    is_rejected: bool = False


class DocumentReader(Protocol):
    """Reads documents as `data.format` says.

    field: a table whose header has it is one. has_answers: only these are targets.
    """

    @property
    def field(self) -> str: ...

    @property
    def has_answers(self) -> bool: ...

    def read(self, source: Source) -> Iterator[TextChunk | Problem]:
        """The documents of one file, in order; its records' mistakes give Problems at its end.

        Raises:
            NotText: if it cannot be read as such, possibly after some of its documents.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TextReader:
    """Reads `data.format: text`. `field`: the key or column of a record's text (data.text_field)."""

    field: str
    has_answers: Literal[False] = False

    def read(self, source: Source) -> Iterator[TextChunk | Problem]:
        return read_chunks(source, self.field)


def read_chunks(source: Source, field: str) -> Iterator[TextChunk | Problem]:
    """The documents of one file, in order; its records' mistakes give Problems at its end.

    Args:
        field: the key or column that holds the text of a record (data.text_field).

    Raises:
        NotText: if it turns out to be binary, possibly after some of its chunks.
    """
    return with_read_problems(source, _read_chunks(source, field))


def _read_chunks(source: Source, field: str) -> Iterator[TextChunk | Problem]:
    form = source.form or judge_form(source.file, field, source.naming)
    if form.kind == "text":
        yield from _cut(_read_text(source, form))
        return
    for text in _read_texts(source, form, field):
        if isinstance(text, Problem):
            yield text
        else:
            yield from _cut((text,))


def with_read_problems(source: Source, items: Iterator[TextChunk | Problem]) -> Iterator[TextChunk | Problem]:
    """What is read of a file, and the Problem of what ended it before its end, whatever the reader."""
    try:
        yield from items
    except ImportError:
        found, expected = "pyarrow is not installed", "the package pyarrow, which reads this form"
        yield data_problem(
            "SW703", found, expected, "pip install -e '.[parquet]'", source.file, path=source.key
        )
    except UnicodeDecodeError:
        yield wrong_encoding(source)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of the content
            yield unreadable(source.file, error, source.key)
            return
        found, expected = f"damaged file: {error}", "a complete file of the form that its beginning shows"
        yield data_problem(
            "SW709", found, expected, "replace it, or leave it out", source.file, path=source.key
        )


def wrong_encoding(source: Source) -> Problem:
    """The Problem of a file of records in another encoding than UTF-8."""
    compression = None if source.form is None else source.form.compression
    return not_text(source, not_utf8(compression, source.naming))


def not_text(source: Source, reason: NotText) -> Problem:
    """The Problem of a file that is not text in any form that can be read."""
    found = str(reason) if reason.code != "SW706" else f"not a text file ({reason})"
    return data_problem(reason.code, found, EXPECTED, reason.fix, source.file, path=source.key)


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


def _read_texts(source: Source, form: Form, field: str) -> Iterator[str | Problem]:
    """The text of each record, empty for a null."""
    faults = RecordFaults(source, form, field)
    try:
        for record in read_records(source, form, top_keys(field)):
            if isinstance(record, MalformedRecord):
                faults.add_malformed(record)
                continue
            if not faults.num_texts and is_thread(record.value):
                problem = _no_documents(source, form, field, record.place)
                if problem is not None:
                    yield problem
                    return
            try:
                text = extract_text(record.value, field) or ""
            except NoText as error:
                faults.add_without_text(record.place, error)
                continue
            faults.add_text(text)
            yield text
    except KeysMissing as error:
        yield keys_missing(source, form, field, error.names)
    except KeysRepeated as error:
        yield keys_repeated(source, form, field, error.names)
    if (
        form.is_single
        and not source.is_named
        and not faults.num_texts
        and not holds_records(source, form, field)
    ):
        raise NotText(f"one JSON object without text under {field!r}")
    yield from faults.problems()


def _no_documents(source: Source, form: Form, field: str, place: int) -> Problem | None:
    """The Problem of messages with roles, which are no documents although they have a text."""
    fix = thread_fix(source, form, field)
    if fix is None or field != "text":
        return None
    found = "messages of conversations, each with its role and the message that it answers"
    expected = f"documents under {field!r} (data.text_field)"
    return data_problem("SW708", found, expected, fix, source.file, place, path="data.text_field")


def _read_text(source: Source, form: Form) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(form.encoding)()
    num_read = 0
    with open_content(source.file, form.compression) as stream:
        while True:
            block = stream.read(READ_BYTES)
            if form.encoding == "utf-8-sig" and b"\0" in block:
                zero = num_read + block.index(0)
                raise with_zero_byte(form.compression, source.naming, zero, block)
            try:
                yield decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                if form.encoding == "utf-8-sig":
                    raise not_utf8(form.compression, source.naming) from error
                name = form.encoding.upper()
                raise NotText(f"not {name} near byte {num_read + error.start}: {error.reason}") from error
            if not block:
                return
            num_read += len(block)
