"""The files of the corpus, and their order.

`data.path` is empty (the Python standard library's sources), a file, a folder, a glob, a Hugging Face
dataset, or a list of these, read in the order given. Files of a folder or glob are read in the order of their
sorted relative paths, so that it is the same on every host.
"""

import glob
import os
import re
import stat
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from planner.problems import Problem
from runtime.data.folders import NOT_LIBRARY, identity_of, leads_nowhere, walk_folder
from runtime.data.form import Form
from runtime.data.naming import Naming, Written, alone
from runtime.data.numbered_sets import expand_braces, find_gaps
from runtime.data.saved_dataset import saved_warning
from runtime.data.splits import choose_train, warn_of_splits

# NAME, OWNER/NAME, and either with :CONFIGURATION
DATASET_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")
# A name with one of these is a misspelt file, not a dataset.
FILE_SUFFIXES = frozenset(
    {".arrow", ".bz2", ".csv", ".gz", ".json", ".jsonl", ".lzma", ".md", ".ndjson"}
    | {".parquet", ".py", ".tsv", ".txt", ".xz", ".zst"}
)
MAX_PROBLEMS = 20  # a corpus may hold millions of the same kind


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of the corpus. `is_named`: data.path names this file itself, so it must not be skipped.

    `form` is None until the file was opened. `part`: the number of its part of data.mix; None without a mix.
    `entry`: the number of the entry that reaches it, whose files are `siblings` if it is a folder or glob.
    `keeps_settings`: other files are as data.format and data.text_field say, so that no fix may change these.
    """

    file: Path
    is_named: bool
    form: Form | None = None
    part: int | None = None
    entry: int = 0
    siblings: Sequence[Path] = field(default=(), repr=False, compare=False)
    written: Written | None = field(default=None, repr=False, compare=False)
    keeps_settings: bool = False

    @property
    def key(self) -> str:
        """The key of the strategy that names it."""
        return key_of_part(self.part)

    @property
    def naming(self) -> Naming:
        """The override that names another file in its place."""
        if self.written is None:
            return alone(self.file)
        return Naming(
            written=self.written,
            file=self.file,
            part=self.part or 0,
            entry=self.entry,
            siblings=self.siblings,
        )


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The files to read, in order, the Problems of the others, and warnings (code and text).

    `num_parts`: the parts of data.mix; 1 without a mix.
    """

    sources: tuple[Source, ...]
    num_parts: int = 1
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


class CorpusUnreadable(Exception):
    """Files of the corpus cannot be read; carries one Problem per file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def data_problem(
    code: str,
    found: str,
    expected: str,
    fix: str,
    file: Path | None = None,
    line: int | None = None,
    *,
    path: str = "data.path",
) -> Problem:
    """A Problem of `data.path` or another key; `file` and `line` are those of the data, if there is one."""
    where = None if file is None else str(file)
    return Problem(code=code, path=path, line=line, found=found, expected=expected, fix=fix, file=where)


def unreadable(file: Path, error: OSError, key: str = "data.path") -> Problem:
    """The Problem of a file or folder that the system does not let this user read."""
    found = f"cannot be read: {error.strerror or error}"
    expected, fix = "a file that this user may read", "correct its permissions, or leave it out"
    if file.is_symlink() and leads_nowhere(file):
        fix = "correct the link or remove it, or leave it out"
    return data_problem("SW705", found, expected, fix, file, path=key)


def key_of_part(part: int | None) -> str:
    """The key that names a part's files; `part` None: there is no mix."""
    return "data.path" if part is None else f"data.mix[{part}].path"


def find_mix(paths: Sequence[str | Sequence[str] | None], weights: Sequence[float]) -> Corpus:
    """The files that the parts of `data.mix` name, part by part; a file of two parts is read in the first."""
    corpora = []
    written = Written(parts=tuple(map(_entries, paths)), weights=tuple(weights))
    for number, path in enumerate(paths):
        found = _standard_library() if path is None else _find_entries(written, number)
        sources = tuple(replace(source, part=number, written=written) for source in found.sources)
        problems = tuple(replace(problem, path=key_of_part(number)) for problem in found.problems)
        corpora.append(replace(found, sources=sources, problems=problems))
    return replace(_merge(corpora), num_parts=len(paths))


def find_corpus(path: str | Sequence[str] | None) -> Corpus:
    """The files that `data.path` names. A file that is reached twice is read once, with a warning."""
    if path is None:
        return _merge([_standard_library()])
    return _find_entries(Written(parts=(_entries(path),)), 0)


def _find_entries(written: Written, part: int) -> Corpus:
    found = []
    for number, entry in enumerate(written.parts[part]):
        corpus = _find(entry, Naming(written=written, file=Path(entry), part=part, entry=number))
        is_folder = any(not source.is_named for source in corpus.sources)
        siblings = [source.file for source in corpus.sources] if is_folder else ()
        sources = tuple(
            replace(source, entry=number, siblings=siblings, written=written) for source in corpus.sources
        )
        gaps = find_gaps(siblings)
        found.append(replace(corpus, sources=sources, warnings=(*corpus.warnings, *gaps)))
    return _merge(found)


def _entries(path: str | Sequence[str] | None) -> tuple[str, ...]:
    if path is None:
        return ()
    return (str(path),) if isinstance(path, (str, os.PathLike)) else tuple(map(str, path))


def _merge(parts: Sequence[Corpus]) -> Corpus:
    sources: dict[tuple[int, int] | str, Source] = {}
    num_repeated = 0
    for source in (source for part in parts for source in part.sources):
        # Text that is read twice could end up on both sides of the validation split.
        first = sources.setdefault(identity_of(source.file), source)
        num_repeated += first is not source
    problems = [problem for part in parts for problem in part.problems]
    if not sources and not problems:
        problems.append(_no_file("data.path is an empty list", "name text, JSONL or Parquet files"))
    warnings = [warning for part in parts for warning in part.warnings]
    if num_repeated:
        warnings.append(
            f"SW718 files reached more than once by data.path ({num_repeated}): each is read once"
        )
    return Corpus(sources=tuple(sources.values()), problems=tuple(problems), warnings=tuple(warnings))


def _standard_library() -> Corpus:
    root = Path(sysconfig.get_paths()["stdlib"])
    errors: list[tuple[Path, OSError]] = []
    files = [file for file in walk_folder(root, errors, NOT_LIBRARY) if file.suffix == ".py"]
    problems = [unreadable(*each) for each in errors]
    if not files and not problems:
        problems.append(
            _no_file(f"this Python has no library sources in {root}", "set data.path to your own text")
        )
    sources = tuple(Source(file=file, is_named=False) for file in files)
    return Corpus(sources=sources, problems=tuple(problems))


def _find(entry: str, naming: Naming) -> Corpus:
    path = Path(entry).expanduser()
    try:
        status = path.stat()
    except OSError as error:
        # A file may have a star in its name; only if there is none is it a glob.
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return Corpus(sources=(), problems=(unreadable(path, error),))
        braces = _without_braces(entry, naming)
        if braces is not None:
            return Corpus(sources=(), problems=(braces,))
        if glob.has_magic(entry):
            return _find_glob(entry)
        return _find_dataset(entry)
    if stat.S_ISDIR(status.st_mode):
        errors: list[tuple[Path, OSError]] = []
        choice = choose_train(path, list(walk_folder(path, errors)))
        problems = [unreadable(*each) for each in errors]
        files = choice.files
        warnings = [saved_warning(path), choice.warning]
        if not files and not problems:
            problems.append(_no_file(f"the folder {entry} holds no files", "name a folder that holds text"))
        return Corpus(
            sources=tuple(Source(file=file, is_named=False) for file in files),
            problems=tuple(problems),
            warnings=tuple(warning for warning in warnings if warning is not None),
        )
    if not stat.S_ISREG(status.st_mode):
        return Corpus(sources=(), problems=(_no_file(f"{entry} is a device or pipe", "name a regular file"),))
    return Corpus(sources=(Source(file=path, is_named=True),))


def _find_glob(pattern: str) -> Corpus:
    matches = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207 (absolute patterns)
    files = [path for path in map(Path, matches) if leads_nowhere(path) or path.is_file()]
    if files:
        warning = warn_of_splits(pattern, files)
        return Corpus(
            sources=tuple(Source(file=file, is_named=False) for file in files),
            warnings=() if warning is None else (warning,),
        )
    if matches:
        fix = f"write {pattern.rstrip('/')}/**/* to include files below, or name the folder itself"
        return Corpus(sources=(), problems=(_no_file(f"the glob {pattern} matches only folders", fix),))
    return Corpus(
        sources=(), problems=(_no_file(f"the glob {pattern} matches no files", _correct_pattern()),)
    )


def _without_braces(entry: str, naming: Naming) -> Problem | None:
    """The Problem of a pattern with braces, which a shell would expand; None for another entry."""
    patterns = expand_braces(entry)
    if len(patterns) < 2:
        return None
    kept = [each for each in patterns if glob.glob(str(Path(each).expanduser()), recursive=True)]  # noqa: PTH207
    found = f"braces in {entry} are not a pattern of file names"
    if not kept:
        return _no_file(
            f"{found}, and none of its {len(patterns)} patterns matches a file", _correct_pattern()
        )
    return _no_file(found, f"write {naming.override_with(kept)}")


def _correct_pattern() -> str:
    return f"correct the pattern (relative to {Path.cwd()})"


def _find_dataset(name: str) -> Corpus:
    """The Arrow files of a Hugging Face dataset's `train` split, downloaded by the package `datasets`."""
    expected = "an existing file, folder or glob, or the name of a Hugging Face dataset"
    here = f"no file or folder {name!r} in {Path.cwd()}"
    if Path(name).suffix.lower() in FILE_SUFFIXES or not DATASET_NAME.fullmatch(name):
        return Corpus(sources=(), problems=(data_problem("SW702", here, expected, "correct the path"),))
    try:
        import datasets  # an optional dependency
    except ImportError:
        found = f"{here}, and the package datasets, which could download it, is not installed"
        fix = "correct the path, or, if it names a dataset: pip install -e '.[datasets]'"
        return Corpus(sources=(), problems=(data_problem("SW703", found, expected, fix),))
    dataset, _, configuration = name.partition(":")
    try:
        split = datasets.load_dataset(dataset, configuration or None, split="train")
    except Exception as error:  # a dozen classes of several packages; all mean the same to a user
        found = f"{here}, and no Hugging Face dataset could be loaded: {type(error).__name__}: {error}"
        fix = "correct the name (NAME or NAME:CONFIGURATION), or download it on a machine with network access"
        return Corpus(sources=(), problems=(data_problem("SW704", found, expected, fix),))
    files = [Path(row["filename"]) for row in split.cache_files]
    if not files:
        return Corpus(
            sources=(), problems=(_no_file(f"the dataset {name} holds no files", "name another dataset"),)
        )
    return Corpus(sources=tuple(Source(file=file, is_named=True) for file in files))


def _no_file(found: str, fix: str) -> Problem:
    return data_problem("SW701", found, "a file, folder, glob or Hugging Face dataset that holds text", fix)
