"""The text of a record under `data.text_field`, and the field in which records have most text."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from planner.units import shorten

MAX_NAMED = 12  # keys named in a message; a table may have hundreds of columns
MAX_DEPTH = 4


class NoText(Exception):
    """The record has no text under the field; says what it has."""


class KeyAbsent(NoText):
    """The record does not have the field's key; names the keys that it has."""


def top_keys(name: str) -> tuple[str, ...]:
    """The columns of a table that may hold the field: `a.b` is a column of that name, or b in a column a."""
    return tuple(dict.fromkeys((name, name.partition(".")[0])))


def find_keys(record: dict[str, Any], name: str) -> tuple[str, ...] | None:
    """The keys, from the outermost, under which the record has the field; None for a null above it.

    Raises:
        KeyAbsent: if it has no such field.
    """
    found, rest = record, name
    keys: list[str] = []
    while rest not in found:
        key, _, rest = rest.partition(".")
        inner = found.get(key)
        if rest and inner is None and key in found:
            return None
        if not rest or not isinstance(inner, dict):
            raise KeyAbsent(f"no key {name!r}; keys: {listed(record)}")
        found = inner
        keys.append(key)
    return (*keys, rest)


def extract_text(value: dict[str, Any] | str, name: str) -> str | None:
    """The record's text under `data.text_field`; None for a null. A record that is a text is its own.

    Raises:
        KeyAbsent: if the record has no such key.
        NoText: if it has something else than text there.
    """
    if isinstance(value, str):
        return value
    keys = find_keys(value, name)
    if keys is None:
        return None
    text: Any = value
    for key in keys:
        text = text[key]
    if text is None or isinstance(text, str):
        return text
    raise NoText(f"{name!r} is of type {type(text).__name__}, not a string")


def has_field(record: dict[str, Any], name: str) -> bool:
    """Whether it has the field, with a text or null."""
    try:
        extract_text(record, name)
    except NoText:
        return False
    return True


def longest_field(records: Sequence[dict[str, Any]], name: str) -> str | None:
    """The field with the most text, but not `name`; None if there is none. `a.b` is b inside a.

    A field that at least half of the records have goes before one of a few long records.
    """
    lengths: Counter[str] = Counter()
    nums: Counter[str] = Counter()
    for record in records:
        for key, text in _texts(record):
            if key != name and has_field(
                record, key
            ):  # a name with a dot inside another object cannot be written
                lengths[key] += len(text)
                nums[key] += 1
    lengths = +lengths
    frequent = {key: length for key, length in lengths.items() if 2 * nums[key] >= len(records)}
    return max(frequent or lengths, key=lengths.__getitem__, default=None)


def _texts(record: dict[str, Any], prefix: str = "", depth: int = 1) -> Iterator[tuple[str, str]]:
    """Each field of text, empty for a null."""
    for key, value in record.items():
        if value is None or isinstance(value, str):
            yield f"{prefix}{key}", value or ""
        elif isinstance(value, dict) and depth < MAX_DEPTH:
            yield from _texts(value, f"{prefix}{key}.", depth + 1)


def listed(names: Iterable[str]) -> str:
    """The first names, as a message shows them, and how many there are if these are not all."""
    shown = [shorten(str(name), 40) or "''" for name in names]
    more = f", … ({len(shown):,})" if len(shown) > MAX_NAMED else ""
    return (", ".join(shown[:MAX_NAMED]) or "none") + more
