"""The first pass over the corpus: every mistake in it, and its counts, before the long work begins."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.problems import Problem
from runtime.data.beside_others import settle
from runtime.data.corpus import MAX_PROBLEMS, Source, data_problem
from runtime.data.documents import DocumentReader, not_text
from runtime.data.form import FOREIGN, NotText, judge_form
from runtime.data.records import DAMAGE
from runtime.data.shards import THEN, join_shards

NUM_NAMED = 3
MAX_GLOBS = 5
MIN_NUMBER_BYTES = 200  # fewer may be a table or a list
ONLY_NUMBERS = re.compile(r"[\d\s,]*")
MAX_RECORDS = 1000  # skipped files that are looked into once more


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one pass over the corpus found.

    `sources` are the files to encode, with their forms; `skipped` are files that are not text, found in a
    folder or by a glob. Empty documents are left out, and so are answers that their records call bad
    (`num_rejected`); `num_bytes` counts the documents' UTF-8 bytes. `numbers`: files whose documents are
    nothing but whole numbers.
    """

    sources: tuple[Source, ...]
    problems: tuple[Problem, ...]
    skipped: tuple[str, ...]
    num_documents: int
    num_empty: int
    num_rejected: int
    num_bytes: int
    num_mended: int
    numbers: tuple[Source, ...]


def survey_corpus(sources: Sequence[Source], reader: DocumentReader) -> Survey:
    """Reads everything once, so that every mistake is reported before the long work begins."""
    kept: list[Source] = []
    faults: list[tuple[Source, Problem]] = []
    skipped: list[tuple[Source, NotText]] = []
    problems: list[Problem] = []
    fine: list[Source] = []
    numbers: list[Source] = []
    num_looked_at = MAX_PROBLEMS  # faults at which they are joined again: twice as many, or it takes long
    num_documents = num_empty = num_rejected = num_bytes = num_mended = 0
    for source in (_with_form(source, reader) for source in sources):
        lengths = [0]  # bytes of each document of this file; the last one is still open
        num_mended_here = num_rejected_here = 0
        has_only_numbers = True
        try:
            for item in reader.read(source):
                if isinstance(item, Problem):
                    faults.append((source, item))
                    continue
                lengths[-1] += len(item.text.encode())
                num_mended_here += item.num_mended
                has_only_numbers = has_only_numbers and ONLY_NUMBERS.fullmatch(item.text) is not None
                num_rejected_here += item.is_rejected
                if item.ends_document:
                    lengths.append(0)
        except NotText as reason:
            if source.is_named or reason.is_fault:
                faults.append((source, not_text(source, reason)))
            else:
                skipped.append((source, reason))
            continue
        kept.append(source)
        if any(lengths) and not any(faulty is source for faulty, _ in faults[-MAX_PROBLEMS:]):
            fine.append(source)
        if has_only_numbers and sum(lengths) >= MIN_NUMBER_BYTES:
            numbers.append(source)
        num_rejected += num_rejected_here
        num_empty += lengths[:-1].count(0) - num_rejected_here
        num_documents += len(lengths) - 1 - lengths[:-1].count(0)
        num_bytes += sum(lengths)
        num_mended += num_mended_here
        if len(faults) < num_looked_at:
            continue
        problems = join_shards(settle(faults, fine, reader))
        num_looked_at = 2 * len(faults)
        if len(problems) >= MAX_PROBLEMS:
            del problems[MAX_PROBLEMS:]
            found = f"reading stopped after {len(problems)} mistakes"
            problems.append(
                data_problem("SW711", found, "data without mistakes", "correct those above first")
            )
            break
    else:
        problems = join_shards(settle(faults, fine, reader))
    if not problems and skipped and (missing := _mostly_skipped(kept, skipped)):
        records = _records_in(skipped, reader)
        problems += records or (missing if num_documents else [])
    return Survey(
        sources=tuple(kept),
        problems=tuple(problems),
        skipped=tuple(f"{source.file} ({reason})" for source, reason in skipped),
        num_documents=num_documents,
        num_empty=num_empty,
        num_rejected=num_rejected,
        num_bytes=num_bytes,
        num_mended=num_mended,
        numbers=tuple(numbers),
    )


def _with_form(source: Source, reader: DocumentReader) -> Source:
    try:
        return replace(source, form=judge_form(source.file, reader.field, source.naming))
    except (NotText, ImportError, *DAMAGE):
        return source  # reading it says what is wrong


def _records_in(skipped: Sequence[tuple[Source, NotText]], reader: DocumentReader) -> list[Problem]:
    """The Problems of skipped files that a command converts, or that hold records inside a single object.

    Settings are written as one object too; where such files are most of the data they are no settings.
    """
    faults = []
    for source, reason in skipped:
        if reason.code == FOREIGN:
            faults.append((source, not_text(source, reason)))
        if source.form is not None and source.form.is_single:
            items = reader.read(replace(source, is_named=True))
            faults += [(source, item) for item in items if isinstance(item, Problem) and THEN in item.fix]
        if len(faults) >= MAX_RECORDS:
            break
    return join_shards(faults)[:MAX_PROBLEMS]


def _mostly_skipped(kept: Sequence[Source], skipped: Sequence[tuple[Source, NotText]]) -> list[Problem]:
    """A Problem if more was skipped than is read, in files or in bytes."""
    bytes_kept = sum(source.file.stat().st_size for source in kept)
    bytes_skipped = sum(source.file.stat().st_size for source, _ in skipped)
    if len(skipped) <= len(kept) and bytes_skipped <= bytes_kept:
        return []
    names = ", ".join(f"{source.file} ({reason})" for source, reason in skipped[:NUM_NAMED])
    more = ", …" if len(skipped) > NUM_NAMED else ""
    found = (
        f"{len(skipped):,} of {len(kept) + len(skipped):,} files, {bytes_skipped:,} of "
        f"{bytes_kept + bytes_skipped:,} bytes, are not text: {names}{more}"
    )
    expected = "text in more than half of the files and of their bytes"
    return [data_problem("SW723", found, expected, _fix_that_names(kept))]


def _fix_that_names(kept: Sequence[Source]) -> str:
    """The fix that names the files that are text, by their suffixes where these are few."""
    suffixes = Counter((source.file.parent, source.file.suffix) for source in kept)
    if len(suffixes) > MAX_GLOBS or any(not suffix for _, suffix in suffixes):
        return "name the files that are text in data.path, or convert the others"
    globs = ",".join(f"{folder}/*{suffix}" for folder, suffix in suffixes)
    return f"convert the others, or name those that are text: data.path=[{globs}]"
