"""Sets of files by their names: those that a pattern with braces means, numbers that are missing in a set."""

import re
from collections.abc import Iterable
from pathlib import Path

from planner.units import shorten
from runtime.data.naming import CONVERTED

BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
MAX_PATTERNS = 200
# train-00000-of-00003.parquet; the first number is 0 for data, 1 for shards of weights.
NUMBERED = re.compile(r"(.*?)(\d{3,})(-of-)(\d{3,})(?!\d)(.*)")
NUM_NAMED = 4


def expand_braces(pattern: str) -> list[str]:
    """The patterns for which a shell takes one with braces, `a.{json,csv}` or `part-{00..17}`; itself without
    any, or for more than MAX_PATTERNS."""
    found, is_done = [pattern], False
    while not is_done:
        expanded = [each for one in found for each in _expand_first(one)]
        if len(expanded) > MAX_PATTERNS:
            return [pattern]
        is_done = expanded == found
        found = expanded
    return found


def _expand_first(pattern: str) -> list[str]:
    braces = BRACES.search(pattern)
    if braces is None:
        return [pattern]
    first, last, names = braces.groups()
    if names is not None:
        choices = names.split(",")
    elif abs(int(last) - int(first)) > MAX_PATTERNS:
        choices = [""] * (MAX_PATTERNS + 1)
    else:
        choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return [f"{pattern[: braces.start()]}{choice}{pattern[braces.end() :]}" for choice in choices]


def find_gaps(files: Iterable[Path]) -> list[str]:
    """A warning for each numbered set of a folder or glob of which files are missing."""
    sets: dict[tuple[Path, str, str, str], set[str]] = {}
    for file in files:
        parts = NUMBERED.fullmatch(file.name)
        if parts is not None:
            before, number, _, total, after = parts.groups()
            after = after.removesuffix(CONVERTED)
            sets.setdefault((file.parent, before, total, after), set()).add(number)
    warnings = []
    for (folder, before, total, after), numbers in sets.items():
        first = 1 if total in numbers else 0
        every = (
            [str(n).zfill(len(total)) for n in range(first, first + int(total))] if int(total) < 1e6 else []
        )
        missing = [number for number in every if number not in numbers]
        if missing:
            more = ", …" if len(missing) > NUM_NAMED else ""
            name = shorten(f"{before}NUMBER-of-{total}{after}", 100)
            warnings.append(
                f"SW746 {folder}: {len(missing):,} of {len(every):,} files {name} are missing and will not "
                f"be trained: {', '.join(missing[:NUM_NAMED])}{more}"
            )
    return warnings
