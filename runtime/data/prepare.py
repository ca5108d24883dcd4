"""Data preparation on rank 0, before any process group exists: find, check, tokenize, cache."""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from planner.problems import Problem, StrategyError
from planner.strategy.schema import Strategy
from runtime.data.cache import (
    DamagedEntry,
    DataManifest,
    discard_entry,
    read_entry,
    recall_corpus_hash,
    remember_corpus_hash,
    remove_leftovers,
    verify_files,
    write_entry,
)
from runtime.data.conversations import ConversationReader, make_reader
from runtime.data.corpus import (
    Corpus,
    CorpusUnreadable,
    data_problem,
    find_corpus,
    find_mix,
    key_of_part,
)
from runtime.data.corpus_hash import hash_corpus, stat_sources
from runtime.data.documents import DocumentReader
from runtime.data.encode import encode_corpus
from runtime.data.mixed_split import MixedSplit, find_shortages, make_split
from runtime.data.mixture import PERIOD
from runtime.data.packed_file import prepare_packed
from runtime.data.survey import survey_corpus
from runtime.data.tokenizer import (
    END_OF_TEXT,
    TextCoder,
    TokenizerUnusable,
    check_ids,
    check_vocab_size,
    load_tokenizer,
    sample_bytes,
)

logger = logging.getLogger(__name__)

# Part of every cache key: increase it when the same documents would give other tokens or another file.
CACHE_FORMAT = 7


@dataclass(frozen=True, kw_only=True)
class DataInputs:
    """What prepared data are made from. `key` names their cache entry; None if there are problems.

    `reader`: None if data.format needs a tokenizer that cannot be used.
    """

    corpus: Corpus
    coder: TextCoder | None
    reader: DocumentReader | None
    files: dict[str, tuple[int, ...]]
    key: str | None
    problems: tuple[Problem, ...]


def default_cache_folder(strategy: Strategy) -> Path:
    """Next to the runs, because `output.folder` is a path that all hosts share."""
    return Path(strategy.output.folder) / ".cache" / "data"


def prepare_data(strategy: Strategy, cache_folder: Path | None = None) -> Path:
    """Tokenizes the data unless they are cached; returns the cache entry for `open_data`. For rank 0 only.

    Raises:
        StrategyError: with every mistake in data, tokenizer and vocabulary, or because of too little data.
    """
    cache = cache_folder or default_cache_folder(strategy)
    inputs = resolve_inputs(strategy, cache)
    if inputs.key is None:
        raise StrategyError(inputs.problems + _problems_inside(inputs))
    _warn(inputs.corpus.warnings)
    folder = cache / inputs.key
    try:
        remove_leftovers(cache)
        manifest = _read_verified(folder)
        if manifest is None:
            write_entry(cache, inputs.key, lambda target: _encode(target, strategy, inputs))
            manifest = read_entry(folder)
        packed = None
        if strategy.data.packing == "documents":
            packed = prepare_packed(folder, manifest, strategy.training.seq_length)
    except OSError as error:
        raise StrategyError((_cannot_write(cache, error),)) from error
    _warn(manifest.warnings)
    split = make_split(strategy, manifest, packed)
    shortages = find_shortages(strategy, manifest, split)
    if shortages:
        raise StrategyError(shortages)
    _report_epochs(strategy, split)
    return folder


def resolve_inputs(strategy: Strategy, cache: Path) -> DataInputs:
    """Finds corpus and tokenizer, and derives the cache key from them; collects every Problem on the way."""
    mix = strategy.data.mix
    if mix is None:
        corpus = find_corpus(strategy.data.path)
    else:
        corpus = find_mix([part.path for part in mix], [part.weight for part in mix])
    problems = list(corpus.problems)
    vocab_size = strategy.model.vocab_size
    coder = reader = None
    settings: dict[str, object] = {}
    try:
        if strategy.data.tokenizer is None:
            check_vocab_size(vocab_size)
            settings = {"vocab_size": vocab_size, "sample": sample_bytes(vocab_size), "end": END_OF_TEXT}
        else:
            coder = load_tokenizer(Path(strategy.data.tokenizer))
            check_ids(coder, vocab_size)
            settings = {"tokenizer": coder.hash}
    except TokenizerUnusable as error:
        problems.append(error.problem)
    try:
        reader = make_reader(strategy.data)
        if isinstance(reader, ConversationReader):
            settings |= {"format": reader.format, "template": reader.template.hash}
    except TokenizerUnusable as error:
        if all(problem.path != error.problem.path for problem in problems):  # a folder without any tokenizer
            problems.append(error.problem)
    files: dict[str, tuple[int, ...]] = {}
    corpus_hash = None
    try:
        files = stat_sources(corpus.sources)
        corpus_hash = recall_corpus_hash(cache, files)
        if corpus_hash is None:
            corpus_hash = hash_corpus(corpus.sources)
            if not problems:
                remember_corpus_hash(cache, files, corpus_hash)
    except CorpusUnreadable as error:
        problems += error.problems
    key = None
    if not problems:
        identity = json.dumps([CACHE_FORMAT, corpus_hash, strategy.data.text_field, settings], sort_keys=True)
        key = hashlib.sha256(identity.encode()).hexdigest()
    return DataInputs(
        corpus=corpus, coder=coder, reader=reader, files=files, key=key, problems=tuple(problems)
    )


def _report_epochs(strategy: Strategy, split: MixedSplit) -> None:
    """Logs how often the run reads each part; more than once is a warning."""
    num_asked = strategy.training.steps * strategy.training.global_batch
    read = split.mixture.num_before(num_asked)
    for number, (part, num) in enumerate(zip(split.parts, read, strict=True)):
        where = "the data"
        if strategy.data.mix is not None:
            where = key_of_part(number)
            share = split.mixture.counts[number] / PERIOD
            logger.info(
                "data: %s is %.2f %% of the sequences: %s of %s",
                where,
                100 * share,
                f"{num:,}",
                f"{num_asked:,}",
            )
        if num > part.split.num_train:
            logger.warning(
                "SW717 the run reads %s sequences and %s %s %s for training: "
                "they are read %.2f times, reshuffled each time",
                f"{num:,}",
                where,
                "have" if strategy.data.mix is None else "has",
                f"{part.split.num_train:,}",
                num / part.split.num_train,
            )


def _problems_inside(inputs: DataInputs) -> tuple[Problem, ...]:
    """Mistakes inside the files that can be read: reported together with the others."""
    if inputs.reader is None:
        return ()
    unreadable = {problem.file for problem in inputs.problems}
    readable = [source for source in inputs.corpus.sources if str(source.file) not in unreadable]
    return survey_corpus(readable, inputs.reader).problems


def _encode(folder: Path, strategy: Strategy, inputs: DataInputs) -> DataManifest:
    assert inputs.key is not None
    assert inputs.reader is not None, "there are no problems"
    sources = inputs.corpus.sources
    manifest = encode_corpus(
        folder, inputs.key, inputs.corpus, inputs.reader, inputs.coder, strategy.model.vocab_size
    )
    # The key was computed before: what was encoded since must be the same bytes.
    try:
        now = stat_sources(sources)
    except CorpusUnreadable as error:
        raise StrategyError(error.problems) from error
    changed = [source for source in now if now[source] != inputs.files[source]]
    if changed:
        file = changed[0].partition(":")[2]
        found = f"{file} was modified while being read"
        expected, fix = "a file that is not being written", "start again when the writer has finished"
        raise StrategyError((data_problem("SW710", found, expected, fix),))
    return manifest


def _read_verified(folder: Path) -> DataManifest | None:
    """The entry's manifest, every byte verified; None if there is no entry, or it was damaged: discarded."""
    try:
        manifest = read_entry(folder)
        verify_files(folder, manifest)
    except FileNotFoundError:
        return None
    except DamagedEntry as error:
        logger.warning("SW716 the prepared data are damaged and will be prepared again: %s", error)
        discard_entry(folder)
        return None
    return manifest


def _warn(texts: Iterable[str]) -> None:
    """Logs warnings that carry their codes; those of an entry from before there were codes do not."""
    for text in texts:
        logger.log(logging.WARNING, "%s", text)


def _cannot_write(cache: Path, error: OSError) -> Problem:
    return Problem(
        code="SW714",
        path="output.folder",
        found=f"prepared data cannot be written to {cache}: {error.strerror or error}",
        expected="a folder that this user may write to, with space for the tokens",
        fix="correct its permissions, free some space, or choose another output.folder",
    )
