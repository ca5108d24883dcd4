"""Expressions for many host names: Slurm's `node[01-04,07]`, a shell's `node{1..4}` and `node{1,2}`."""

import re
from collections.abc import Iterator

MOST_NAMES = 65_536  # of one expression
_MOST_RANGES = 16
_RANGE = re.compile(r"\[([\d,-]+)\]|\{(\d+)\.\.(\d+)\}|\{([^{},\[\]]*,[^{}\[\]]*)\}")
_ITEM = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


def expand(name: str) -> Iterator[str]:
    """The names of an expression, in its order; at most one more than `MOST_NAMES`.

    Raises:
        ValueError: if a range is not one, such as [4-] and [04-01].
    """
    match = _RANGE.search(name)
    if match is None:
        yield name
        return
    if name.count("[") + name.count("{") > _MOST_RANGES:
        raise ValueError(f"it has more than {_MOST_RANGES} ranges")
    numbers, first, last, words = match.groups()
    if numbers is not None:
        items: Iterator[str] = (number for item in numbers.split(",") for number in _range(item))
    else:
        items = _range(f"{first}-{last}") if first is not None else iter(words.split(","))
    count = 0
    for item in items:
        for each in expand(name[: match.start()] + item + name[match.end() :]):
            count += 1
            yield each
            if count > MOST_NAMES:
                return


def as_braces(name: str) -> str:
    """The same expression for bash: node[01-04,07] as node{{01..04},07}."""

    def braces(match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group(0)
        items = [
            item if "-" not in item else "{" + item.replace("-", "..") + "}"
            for item in match.group(1).split(",")
        ]
        return items[0] if len(items) == 1 else "{" + ",".join(items) + "}"

    return _RANGE.sub(braces, name)


def split_outside_brackets(text: str, separators: str) -> list[str]:
    """The parts of a text between separators that are in no bracket, stripped, without empty ones."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth = max(0, depth + (letter in "[{") - (letter in "]}"))
        if letter in separators and not depth:
            parts.append(text[start:i].strip())
            start = i + 1
    return [part for part in (*parts, text[start:].strip()) if part]


def _range(item: str) -> Iterator[str]:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise ValueError(f"{item!r} is not a range")
    first, last = match.group(1), match.group(2) or match.group(1)
    if int(last) < int(first):
        raise ValueError(f"{item!r} is not a range")
    for number in range(int(first), int(last) + 1):
        yield f"{number:0{len(first)}d}"
