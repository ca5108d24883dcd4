"""The text of a record, and what a file's records have in place of it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from planner.problems import Problem
from runtime.data.corpus import Source, data_problem
from runtime.data.form import Form
from runtime.data.json_values import TRAILING_COMMA
from runtime.data.list_rows import lists_fix
from runtime.data.records import MalformedRecord
from runtime.data.shape_fix import (
    absent_fix,
    listed,
    longest_field,
    named_rows_fix,
    numbered_fix,
    override,
    renamed_fix,
    rows_fix,
    sample_records,
    shape_fix,
    without_empty_fix,
)

MAX_NAMED = 12  # elements of a list whose kind is looked at


NUM_ROWS = 100  # in which names and texts are looked for


class NoText(Exception):
    """The record has no text under the field; says what it has."""


class KeyAbsent(NoText):
    """The record does not have the field's key; names the keys that it has."""


def top_keys(name: str) -> tuple[str, ...]:
    """The columns of a table that may hold the field: `a.b` is a column of that name, or b in a column a."""
    return tuple(dict.fromkeys((name, name.partition(".")[0])))


def extract_text(value: dict[str, Any] | str, name: str) -> str | None:
    """The record's text under `data.text_field`; None for a null. A record that is a text is its own.

    Raises:
        KeyAbsent: if the record has no such key.
        NoText: if it has something else than text there.
    """
    if isinstance(value, str):
        return value
    found = value
    rest = name
    while rest not in found:
        key, _, rest = rest.partition(".")
        inner = found.get(key)
        if rest and inner is None and key in found:
            return None
        if not rest or not isinstance(inner, dict):
            raise KeyAbsent(f"no key {name!r}; keys: {listed(value)}")
        found = inner
    text = found[rest]
    if text is None or isinstance(text, str):
        return text
    raise NoText(f"{name!r} is of type {type(text).__name__}, not a string")


class RecordFaults:
    """The mistakes in one file's records: one Problem for each kind, however many records have it."""

    def __init__(self, source: Source, form: Form, name: str) -> None:
        self.source, self.form, self.name = source, form, name
        self.num_texts = self.num_nulls = 0
        self.first: dict[str, tuple[int, str]] = {}  # the first place and message of each kind
        self.counts: Counter[str] = Counter()
        self.rows: list[tuple[Any, ...]] = []  # the first lists in place of objects

    def add_text(self, text: str) -> None:
        """Counts a record that has the field; an empty text is what null is."""
        if text:
            self.num_texts += 1
        else:
            self.num_nulls += 1

    def add_malformed(self, record: MalformedRecord) -> None:
        self._add("malformed", record.place, record.why)
        if record.fields and len(self.rows) < NUM_ROWS:
            self.rows.append(record.fields)

    def add_without_text(self, place: int, error: NoText) -> None:
        kind = "absent" if isinstance(error, KeyAbsent) else str(error)
        self._add(kind, place, str(error))

    def _add(self, kind: str, place: int, found: str) -> None:
        self.first.setdefault(kind, (place, found))
        self.counts[kind] += 1

    def problems(self) -> list[Problem]:
        """In the order of their first places."""
        if self.num_nulls > self.num_texts and not self.counts:
            return [self._mostly_null()]
        return [self._problem(kind) for kind in self.first]

    def _problem(self, kind: str) -> Problem:
        place, found = self.first[kind]
        total = self.num_texts + self.num_nulls + self.counts.total()
        if self.counts[kind] > 1:
            found += f" ({self.counts[kind]:,} of {total:,} records)"
        if kind == "malformed":
            expected = f"records of {self.form}, each with its text under {self.name!r}"
            fix = "remove that comma" if TRAILING_COMMA in found else "correct or remove the line"
            lists = lists_fix(self.source, self.form, self.rows, self.name)
            if self.counts[kind] == total and lists is not None:
                fix = lists
            elif self.counts[kind] == total > 1:
                fix = named_rows_fix(self.source, self.form, self.rows, self.name) or (
                    f"leave the file out of data.path, or write it again: no line is a record of {self.form}"
                )
            return data_problem("SW707", found, expected, fix, self.source.file, place, path=self.source.key)
        expected = f"text under {self.name!r} in every record (data.text_field)"
        fix = "correct or remove the record"
        if kind == "absent" and 1 < self.counts[kind] < total:
            fix = absent_fix(self.source, self.form, self.name) or fix
        if self.counts[kind] == total - (self.counts["malformed"] if kind != "malformed" else 0):
            fix = suggest_field(self.source, self.form, self.name)
        return data_problem("SW708", found, expected, fix, self.source.file, place, path="data.text_field")

    def _mostly_null(self) -> Problem:
        total = self.num_nulls + self.num_texts
        found = f"no text under {self.name!r} in {self.num_nulls:,} of {total:,} records: null or empty"
        expected = "text in more than half of the records"
        fix = without_empty_fix(self.source, self.form, self.name) if self.num_texts else None
        fix = fix or suggest_field(self.source, self.form, self.name)
        return data_problem("SW722", found, expected, fix, self.source.file, path="data.text_field")


def keys_missing(source: Source, form: Form, name: str, names: Iterable[str]) -> Problem:
    """The Problem of a table without the column."""
    if form.csv is not None and not form.csv.has_header:
        found, fix = "a table without names in its first row", rows_fix(source, form, name)
    else:
        found, fix = f"no column {name!r}; columns: {listed(names)}", suggest_field(source, form, name)
    expected = f"a column {name!r} of text (data.text_field)"
    return data_problem("SW708", found, expected, fix, source.file, path="data.text_field")


def keys_repeated(source: Source, form: Form, name: str, names: Sequence[str]) -> Problem:
    """The Problem of a table in which several columns have the name."""
    found = f"{names.count(name)} columns {name!r}; columns: {listed(names)}"
    expected = f"one column {name!r} of text (data.text_field)"
    fix = numbered_fix(source, form, names, name)
    return data_problem("SW708", found, expected, fix, source.file, path="data.text_field")


def suggest_field(source: Source, form: Form, name: str) -> str:
    """The fix for the first records: what makes them records of text or of conversations, or the field with
    the most text."""
    records = sample_records(source, form)
    fix = shape_fix(source, form, records, name)
    if fix is not None:
        return fix
    field = longest_field(records, name)
    if field == "":
        return renamed_fix(source, form, name)
    if field is None:
        first = records[0] if records else None
        return f"leave the file out of data.path: its records have no text, but {_kinds(first)}"
    return f"write {override('data.text_field', field)}, or leave the file out of data.path"


def _kinds(record: dict[str, Any] | None) -> str:
    """The keys of a record, each with what it holds; None: there is no record."""
    if record is None:
        return "none that can be read"
    return listed(f"{key} ({_kind(value)})" for key, value in record.items())


def _kind(value: Any) -> str:
    if isinstance(value, list):
        inner = {_kind(element) for element in value[:MAX_NAMED]}
        return f"a list of {inner.pop()}" if len(inner) == 1 else "a list"
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text"
    return "an object" if isinstance(value, dict) else type(value).__name__
