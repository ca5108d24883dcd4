"""Encoding of a corpus into one token file: one pass to check it, one for the tokenizer, one to encode."""

import hashlib
import logging
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from planner.problems import Problem, StrategyError
from runtime.data.answers import check_answers
from runtime.data.beside_text import find_answers_beside
from runtime.data.cache import TOKENIZER_NAME, DataManifest
from runtime.data.chat_template import Rendered, conversation_tokenizer, encode_rendered
from runtime.data.corpus import Corpus, Source, data_problem
from runtime.data.documents import DocumentReader, TextChunk
from runtime.data.lost_text import SAMPLE_BYTES, measure_lost_text
from runtime.data.survey import Survey, survey_corpus
from runtime.data.token_writer import TokenWriter
from runtime.data.tokenizer import TextCoder, sample_bytes, train_tokenizer

logger = logging.getLogger(__name__)

BATCH_CHARACTERS = 1 << 20  # encoding takes about 200 bytes of memory per character
NUM_NAMED = 3
PROGRESS_S = 5.0


def encode_corpus(
    folder: Path, key: str, corpus: Corpus, reader: DocumentReader, coder: TextCoder | None, vocab_size: int
) -> DataManifest:
    """Writes the token file and the tokenizer into `folder`; `coder` None trains one of `vocab_size` entries.

    Raises:
        StrategyError: with every mistake in the corpus, or because it holds no text.
    """
    started = time.perf_counter()
    logger.info("data: reading %s files", f"{len(corpus.sources):,}")
    survey = survey_corpus(corpus.sources, reader)
    if survey.problems:
        raise StrategyError(survey.problems)
    warnings = _warnings(survey)
    if reader.has_answers:
        warnings += check_answers(survey, reader)
    else:
        warnings += find_answers_beside(survey.sources, reader.field)
    if survey.num_documents == 0:
        raise StrategyError((_nothing_to_read(survey),))
    if coder is None:
        coder = _train(survey, reader, vocab_size)
        if coder.num_ids < vocab_size:
            warnings.append(
                f"SW721 the data support a vocabulary of only {coder.num_ids:,} entries; "
                f"the other ids of model.vocab_size ({vocab_size:,}) are never used"
            )
    else:
        warnings += _check_lost_text(coder, survey, reader)
    (folder / TOKENIZER_NAME).write_text(coder.tokenizer.to_str(), encoding="utf-8")
    token_bytes = 2 if coder.num_ids <= 1 << 16 else 4
    dtype = np.dtype(f"<u{token_bytes}")
    with TokenWriter(folder, coder.end_of_text, dtype, has_targets=reader.has_answers) as writer:
        progress = Progress(survey.num_bytes)
        for part in range(corpus.num_parts):
            sources = [source for source in survey.sources if (source.part or 0) == part]
            _write_tokens(writer, sources, reader, coder, progress)
            writer.end_part()
        written = writer.finish()
    num_tokens = written.num_tokens
    logger.info(
        "data: %s documents (and %s empty ones), %s tokens, %.2f bytes per token, prepared in %.1f s",
        f"{survey.num_documents:,}",
        f"{survey.num_empty:,}",
        f"{num_tokens:,}",
        survey.num_bytes / num_tokens,
        time.perf_counter() - started,
    )
    return DataManifest(
        key=key,
        num_tokens=num_tokens,
        num_targets=written.num_targets,
        token_bytes=token_bytes,
        tokens_sha256=written.tokens_sha256,
        documents_sha256=written.documents_sha256,
        targets_sha256=written.targets_sha256,
        tokenizer_sha256=hashlib.sha256((folder / TOKENIZER_NAME).read_bytes()).hexdigest(),
        tokenizer_hash=coder.hash,
        end_of_text=coder.end_of_text,
        num_ids=coder.num_ids,
        num_documents=survey.num_documents,
        num_bytes=survey.num_bytes,
        part_tokens=written.part_tokens,
        part_documents=written.part_documents,
        warnings=tuple(warnings),
    )


def _train(survey: Survey, reader: DocumentReader, vocab_size: int) -> TextCoder:
    share = min(1.0, sample_bytes(vocab_size) / survey.num_bytes)
    logger.info(
        "data: training a tokenizer of %s entries on %.1f of %.1f MB",
        f"{vocab_size:,}",
        share * survey.num_bytes / 1e6,
        survey.num_bytes / 1e6,
    )
    return train_tokenizer(_sample(survey.sources, reader, share), vocab_size)


def _check_lost_text(coder: TextCoder, survey: Survey, reader: DocumentReader) -> list[str]:
    """A warning if the tokenizer loses a part of the text.

    Raises:
        StrategyError: if it loses more than half.
    """
    share = min(1.0, SAMPLE_BYTES / survey.num_bytes)
    with _encoding_problems():
        lost = measure_lost_text(coder.tokenizer, _sample(survey.sources, reader, share))
    if lost.num_lost == 0:
        return []
    found = (
        f"the tokenizer loses {lost.share:.2%} of the characters, for which it has no token "
        f"(in a sample of {lost.num_characters:,}): {lost.examples}"
    )
    if lost.share > 0.5:
        expected = "a tokenizer that knows most of the text"
        fix = "choose a tokenizer for this text, or none (data.tokenizer=null), which trains one on it"
        raise StrategyError((data_problem("SW739", found, expected, fix, path="data.tokenizer"),))
    return [f"SW737 {found}"]


@contextmanager
def _encoding_problems() -> Iterator[None]:
    try:
        yield
    except StrategyError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        found = f"the tokenizer cannot encode the text: {error}"
        expected = "a tokenizer that has bytes, or an unknown token in its vocabulary"
        fix = "choose another tokenizer, or none (data.tokenizer=null), which trains one on the data"
        problem = data_problem("SW740", found, expected, fix, path="data.tokenizer")
        raise StrategyError((problem,)) from error


def _sample(sources: Iterable[Source], reader: DocumentReader, share: float) -> Iterator[str]:
    """A random sample of about this share of the corpus's chunks, the same ones every time.

    Every n-th chunk would not do: in a repetitive corpus that may be the same text each time.
    """
    generator = random.Random(0)  # Python promises the same random() in every release
    for number, chunk in enumerate(_chunks(sources, reader)):
        if generator.random() < share or number == 0:
            yield chunk.text


class Progress:
    """Lines of the log on how much is encoded, every few seconds."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes, self.num_done = num_bytes, 0
        self.reported = time.monotonic()

    def add(self, num_bytes: int) -> None:
        self.num_done += num_bytes
        if time.monotonic() - self.reported > PROGRESS_S:
            share = 100 * self.num_done / self.num_bytes
            done, total = self.num_done / 1e6, self.num_bytes / 1e6
            logger.info("data: encoded %.1f of %.1f MB (%.0f %%)", done, total, share)
            self.reported = time.monotonic()


def _write_tokens(
    writer: TokenWriter,
    sources: Iterable[Source],
    reader: DocumentReader,
    coder: TextCoder,
    progress: Progress,
) -> None:
    """Writes every document of these files."""
    if reader.has_answers:
        _write_conversations(writer, _chunks(sources, reader), coder, progress)
        return
    for batch in _batches(_chunks(sources, reader)):
        texts = [chunk.text for chunk in batch]
        with _encoding_problems():
            encoded = coder.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for chunk, encoding in zip(batch, encoded, strict=True):
            writer.add(encoding.ids, ends_document=chunk.ends_document)
        progress.add(sum(len(chunk.text.encode()) for chunk in batch))


def _write_conversations(
    writer: TokenWriter, conversations: Iterable[TextChunk], coder: TextCoder, progress: Progress
) -> None:
    """Writes conversations, of which the answers are targets."""
    tokenizer = conversation_tokenizer(coder)
    for batch in _batches(conversations):
        with _encoding_problems():
            encoded = encode_rendered(tokenizer, [Rendered(text=c.text, spans=c.answers) for c in batch])
        for ids, is_answer in encoded:
            writer.add_with_targets(ids, is_answer)
        progress.add(sum(len(chunk.text.encode()) for chunk in batch))


def _batches(chunks: Iterable[TextChunk]) -> Iterator[list[TextChunk]]:
    batch: list[TextChunk] = []
    num_characters = 0
    for chunk in chunks:
        batch.append(chunk)
        num_characters += len(chunk.text)
        if num_characters >= BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _chunks(sources: Iterable[Source], reader: DocumentReader) -> Iterator[TextChunk]:
    """The chunks of files that the survey accepted."""
    for source in sources:
        for item in reader.read(source):
            if isinstance(item, Problem):
                raise StrategyError((item,))  # modified since the survey
            yield item


def _warnings(survey: Survey) -> list[str]:
    warnings = []
    if survey.skipped:
        names = ", ".join(survey.skipped[:NUM_NAMED])
        more = ", …" if len(survey.skipped) > NUM_NAMED else ""
        warnings.append(
            f"SW719 files that are not text were skipped ({len(survey.skipped):,}): {names}{more}"
        )
    if survey.numbers:
        names = ", ".join(str(source.file) for source in survey.numbers[:NUM_NAMED])
        more = ", …" if len(survey.numbers) > NUM_NAMED else ""
        warnings.append(
            f"SW749 documents that are nothing but whole numbers are trained digit by digit: {names}{more}; "
            "if they are token ids, give the text that they were made from"
        )
    if survey.num_mended:
        warnings.append(f"SW720 unpaired UTF-16 surrogates were replaced by U+FFFD ({survey.num_mended:,})")
    return warnings


def _nothing_to_read(survey: Survey) -> Problem:
    found = (
        f"no text in the data (empty documents: {survey.num_empty:,}; "
        f"files that are not text: {len(survey.skipped):,})"
    )
    fix = "name other data"
    if survey.num_rejected:
        found += f", and {survey.num_rejected:,} answers that are marked as bad (label, kto_tag, winner)"
    if survey.skipped:
        found += f": {', '.join(survey.skipped[:NUM_NAMED])}"
        fix += ", or name one of these files itself in data.path, to be told what it lacks"
    return data_problem("SW712", found, "at least one document that is not empty", fix)
