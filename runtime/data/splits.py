"""Splits of a dataset's folder: its train split is the data, what is held out and its description are not."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from planner.units import shorten
from runtime.data.naming import alone
from runtime.data.placeholder import DATA_SUFFIXES, RECORD_SUFFIXES, data_suffix

TRAIN = "train"
# The words by which the package datasets knows splits (SPLIT_KEYWORDS in its data_files.py).
WORDS = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "heldout": "test",
    "holdout": "test",
}
WORD = re.compile(
    rf"(?<![A-Za-z])({'|'.join(sorted(WORDS, key=len, reverse=True))})(?![A-Za-z])", re.IGNORECASE
)
# Of parallel corpora and others whose suffix is no form.
MORE_SUFFIXES = frozenset({"", ".en", ".de", ".fr", ".raw", ".src", ".tgt", ".source", ".target", ".lines"})
CARD = "README.md"
CARD_KEYS = frozenset(
    {"annotations_creators", "configs", "dataset_info", "language_creators", "multilinguality", "pretty_name"}
    | {"size_categories", "source_datasets", "task_categories", "task_ids", "viewer"}
)
DESCRIPTIONS = re.compile(r"(readme|licen[cs]e|copying|citation|changelog)(\.(md|txt|rst|cff|bib))?", re.I)
INFOS = frozenset({"dataset_info.json", "dataset_infos.json"})
FRONT_MATTER = re.compile(r"---\s*\n(.*?)\n---\s*(\n|$)", re.DOTALL)
MAX_CARD_BYTES = 1 << 20
NUM_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The files to read, and the warning about what was left out, or is read although it is held out."""

    files: tuple[Path, ...]
    warning: str | None = None


def choose_train(folder: Path, files: Sequence[Path]) -> Choice:
    """The train split of a folder that has one and others beside it, without the dataset's description."""
    splits = _splits(folder, files)
    held_out = {file: split for file, split in splits.items() if split != TRAIN}
    described = _descriptions(folder, files)
    left_out = held_out.keys() | described
    kept = tuple(file for file in files if file not in left_out)
    if not kept or not left_out:
        return Choice(files=tuple(files), warning=_only_held_out(folder, files))
    parts = [f"{split} ({_listed(folder, each)})" for split, each in _by_split(held_out).items()]
    if described:
        parts.append(f"its description ({_listed(folder, sorted(described))})")
    taken = "the train split was taken" if held_out else "the data were taken"
    everything = alone(folder).override(folder / "**" / "*")
    left = ", ".join(parts)
    warning = (
        f"SW744 {folder}: {taken} ({_listed(folder, kept)}); left out: {left}. To read all: {everything}"
    )
    return Choice(files=kept, warning=warning)


def warn_of_splits(pattern: str, files: Sequence[Path]) -> str | None:
    """The warning of a glob that reaches splits which are held out, beside a train split."""
    held_out = {file: split for file, split in _splits(Path(), files).items() if split != TRAIN}
    if not held_out:
        return None
    named = ", ".join(f"{split} ({_listed(Path(), each)})" for split, each in _by_split(held_out).items())
    return f"SW745 the glob {pattern} reaches a train split and others: {named} is trained too"


def _splits(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    """The split of each file that has one, where the same place has a train split and others."""
    found = _declared(folder, files)
    if found:
        return found
    groups: dict[tuple[str, ...], dict[Path, str]] = {}
    for file in files:
        place = _place(file.relative_to(folder) if file.is_relative_to(folder) else file)
        if place is not None:
            key, split = place
            groups.setdefault(key, {})[file] = split
    return {
        file: split
        for group in groups.values()
        if TRAIN in group.values() and len(set(group.values())) > 1
        for file, split in group.items()
    }


def _place(path: Path) -> tuple[tuple[str, ...], str] | None:
    """Where a file's split is said, a folder's or a file's name up to the word, and the split."""
    suffix = data_suffix(path)
    if suffix not in DATA_SUFFIXES | MORE_SUFFIXES:
        return None
    for number, name in enumerate(path.parts):
        words = list(WORD.finditer(name))
        is_folder = number < len(path.parts) - 1
        if words and (not is_folder or words[-1][0] == name):
            before = name[: words[-1].start()]
            return (*path.parts[:number], "/" if is_folder else before), WORDS[words[-1][0].lower()]
    return None


def _declared(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    """The splits that the dataset's card declares: `configs`, each with its `data_files`."""
    configs = _card(folder).get("configs")
    patterns: list[tuple[str, str]] = []
    for config in configs if isinstance(configs, list) else ():
        entries = config.get("data_files") if isinstance(config, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("split"), str):
                paths = entry.get("path")
                named = paths if isinstance(paths, list) else [paths]
                patterns += [(str(path).removeprefix("./"), entry["split"]) for path in named]
    found: dict[Path, str] = {}
    for file in files:
        name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()
        splits = [split for pattern, split in patterns if fnmatch(name, pattern)]
        if splits:
            found[file] = TRAIN if any(split.startswith(TRAIN) for split in splits) else splits[0]
    return found if TRAIN in found.values() else {}


def _descriptions(folder: Path, files: Sequence[Path]) -> set[Path]:
    """Files beside the records of a dataset that describe it. Of a folder of prose the README is text."""
    others = [file for file in files if not DESCRIPTIONS.fullmatch(file.name) and file.name not in INFOS]
    has_records = any(data_suffix(file) in RECORD_SUFFIXES for file in others)
    is_all_records = has_records and all(data_suffix(file) in RECORD_SUFFIXES for file in others)
    if not others or not (is_all_records or CARD_KEYS & _card(folder).keys()):
        return set()
    return {file for file in files if file.parent == folder} - set(others)


def _card(folder: Path) -> dict[str, Any]:
    """The metadata of the dataset's card; empty without any."""
    try:
        with (folder / CARD).open("rb") as stream:
            text = stream.read(MAX_CARD_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return {}
    found = FRONT_MATTER.match(text)
    try:
        metadata = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _only_held_out(folder: Path, files: Sequence[Path]) -> str | None:
    """The warning of a folder whose files are all of splits that are held out elsewhere."""
    found = {}
    for file in files:
        place = _place(file.relative_to(folder) if file.is_relative_to(folder) else file)
        if place is None or place[1] == TRAIN:
            return None
        found[file] = place[1]
    if not found:
        return None
    named = ", ".join(f"{split} ({_listed(folder, each)})" for split, each in _by_split(found).items())
    return f"SW745 {folder} has no train split: {named} is trained"


def _by_split(splits: dict[Path, str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file, split in splits.items():
        found.setdefault(split, []).append(file)
    return dict(sorted(found.items()))


def _listed(folder: Path, files: Iterable[Path]) -> str:
    names = [
        shorten(str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file), 60)
        for file in files
    ]
    more = f", … ({len(names):,} files)" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more
