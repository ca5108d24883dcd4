"""The mistakes in the records of one file: what they have in place of a text."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from planner.problems import Problem
from runtime.data.corpus import Source, data_problem
from runtime.data.field_fix import absent_fix, marked_fix, suggest_field, without_empty_fix
from runtime.data.form import Form
from runtime.data.json_values import TRAILING_COMMA
from runtime.data.list_rows import lists_fix
from runtime.data.records import MalformedRecord
from runtime.data.shape_fix import named_rows_fix, numbered_fix, rows_fix
from runtime.data.text_field import KeyAbsent, NoText, listed

NUM_ROWS = 100  # in which names are looked for


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
        if kind == "absent" and 1 < self.counts[kind] < total and not self.counts["malformed"]:
            fix = absent_fix(self.source, self.form, self.name) or fix
        elif kind != "absent" and not self.counts["malformed"]:
            fix = marked_fix(self.source, self.form, self.name) or fix
        if self.counts[kind] == total - (self.counts["malformed"] if kind != "malformed" else 0):
            fix = suggest_field(self.source, self.form, self.name, is_whole=not self.counts["malformed"])
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
