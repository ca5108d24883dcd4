"""The fix for records of another shape: the command that converts the file, and the overrides for it."""

import csv
import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from planner.strategy.schema import TEXT_FIELD
from planner.yaml12_writer import flow_yaml
from runtime.data.conversion import conversion_command
from runtime.data.corpus import Source
from runtime.data.csv_form import open_csv
from runtime.data.form import Form
from runtime.data.naming import converted_name
from runtime.data.nesting import Nested, find_nested
from runtime.data.prompt_columns import COMPLETIONS, PROMPTS, Answers, are_messages, at
from runtime.data.records import DAMAGE, Record, open_text, read_records
from runtime.data.text_field import find_keys, longest_field
from runtime.data.turn_columns import find_answers, find_whole

NUM_SAMPLED = 100  # records in which another field is looked for
NEEDS_TEMPLATE = " and a data.tokenizer with a chat template"
LEAVE_OUT = ", or leave the file out of data.path"
Conversion = tuple[str, str, str]  # what it does, its command, and overrides with a space after each


def sample_records(source: Source, form: Form) -> list[dict[str, Any]]:
    """The first records that are objects, and can be read."""
    found: list[dict[str, Any]] = []
    with suppress(*DAMAGE):
        for record in islice(read_records(source, form), NUM_SAMPLED):
            if isinstance(record, Record) and isinstance(record.value, dict):
                found.append(record.value)
    return found


def shape_fix(
    source: Source, form: Form, records: Sequence[dict[str, Any]], name: str, format: str = "text"
) -> str | None:
    """The fix if records are inside others, or are conversations or prompts; None for others.

    Args:
        name: the field that should hold the text, or the messages.
        format: data.format as it is written; with chat and prompt there is a chat template already.
    """
    if find_whole(records) and form.csv is None:
        command = conversion_command(source.file, form, '{"messages": list(t)}', rows=True)
        if command is not None:
            return converted_fix(
                source, command, "join its messages to one conversation", "data.format=chat ", name, format
            )
    for record in records:
        nested = find_nested(record, name, has_many=len(records) > 1)
        if nested is not None:
            fix = nested_fix(source, form, nested, name, format)
        elif (answers := find_answers(record, format)) is not None:
            fix = answers_fix(source, form, answers, name, format)
        else:
            continue
        if fix is not None:
            return fix
    return None


def holds_records(source: Source, form: Form, name: str) -> bool:
    """Whether a single object holds a list of records with the field, of conversations or of prompts.

    Settings have lists with pairs of other names, and with descriptions.
    """
    records = sample_records(source, form)
    nested = find_nested(records[0], name, has_many=False) if len(records) == 1 else None
    if nested is None or isinstance(nested.first, str) or "*" in nested.where:
        return False
    first = nested.first
    if isinstance(first.get(name), str) or any(map(are_messages, first.values())):
        return True
    return bool(set(PROMPTS) & first.keys()) and bool(set(COMPLETIONS) & first.keys())


def answers_fix(source: Source, form: Form, answers: Answers, name: str, format: str) -> str | None:
    overrides = _changes(_with_field(answers.overrides, name), name, format)
    template = NEEDS_TEMPLATE if format == "text" else ""
    if source.keeps_settings and (format == "text" or "data." in overrides):
        return leave_out_fix(source, format)
    if answers.converted is None:
        if not overrides.strip():
            return None
        return f"write {overrides.strip()}{template}{LEAVE_OUT}"
    loops = [answers.condition] if answers.condition else []
    command = conversion_command(source.file, form, answers.converted, loops, answers.modules)
    if command is None:
        return None
    return converted_fix(source, command, answers.doing, answers.overrides, name, format)


def converted_fix(source: Source, command: str, doing: str, overrides: str, name: str, format: str) -> str:
    """The fix that makes conversations of records: the command, and the overrides that read them."""
    if source.keeps_settings and format == "text":
        return leave_out_fix(source, format)
    overrides = _changes(_with_field(overrides, name), name, format)
    then = source.naming.then_write(command, converted_name(source.file), overrides)
    template = NEEDS_TEMPLATE + LEAVE_OUT if format == "text" else ""
    return f"{doing}: {then}{template}"


def leave_out_fix(source: Source, format: str) -> str:
    """The fix for a file of conversations beside texts, or of texts beside conversations."""
    others = "texts" if format == "text" else "conversations"
    this = "conversations" if format == "text" else "texts"
    why = f"leave it out, or train it in a run of its own: the other files are {others}, and it has {this}"
    override = source.naming.without()
    return why if override is None else f"write {override} to {why}"


def renamed(first: dict[str, Any], field: str, name: str) -> str:
    """The Python expression of the record `r` with its text under `name` too."""
    keys = find_keys(first, field)
    assert keys is not None, "it has a text there"
    return f"dict(r, **{{{quoted(name)}: {at(keys[0])}{''.join(f'[{quoted(key)}]' for key in keys[1:])}}})"


def _changes(overrides: str, name: str, format: str) -> str:
    """Without those that say what is written already: chat reads prompts and their completions too."""
    if format == "prompt" or (format == "chat" and name == "messages"):
        overrides = overrides.replace("data.format=prompt ", "")
    return overrides.replace("data.format=chat ", "") if format == "chat" else overrides


def nested_fix(source: Source, form: Form, nested: Nested, name: str, format: str) -> str | None:
    first, loops, template = nested.first, list(nested.loops), ""
    modules: tuple[str, ...] = ()
    converted, overrides, as_text = "r", "", ""
    if format != "text" and (isinstance(first, str) or find_answers(first, format) is None):
        name, as_text = TEXT_FIELD, "data.format=text "
        overrides = f"data.text_field={TEXT_FIELD} "
    if nested.joint is not None and (isinstance(first, str) or isinstance(first.get(name), str)):
        part = "r" if isinstance(first, str) else at(name)
        converted = f"dict(r, **{{{quoted(name)}: {nested.joint}.join({part} {' '.join(loops)})}})"
        loops = []
    elif isinstance(first, str):
        converted = f"{{{quoted(name)}: r}}"
    elif not isinstance(first.get(name), str):
        answers = find_answers(first, format)
        if answers is not None:
            converted, overrides = answers.converted or "r", _with_field(answers.overrides, name)
            overrides = _changes(overrides, name, format)
            if source.keeps_settings and (format == "text" or "data." in overrides):
                return leave_out_fix(source, format)
            modules, template = answers.modules, NEEDS_TEMPLATE if format == "text" else ""
            loops += [answers.condition] if answers.condition else []
        else:
            field = longest_field([first], name)
            if field is None:
                return None
            if source.keeps_settings and format == "text":
                converted = renamed(first, field, name)
            else:
                overrides = f"{override('data.text_field', field)} "
    if source.keeps_settings and as_text:
        return leave_out_fix(source, format)
    command = conversion_command(source.file, form, converted, loops, modules)
    if command is None:
        return None
    then = source.naming.then_write(command, converted_name(source.file), f"{as_text}{overrides}")
    return f"{nested.doing} ({nested.where}): {then}{template}"


def _with_field(overrides: str, name: str) -> str:
    """With data.text_field as the format reads it, where another is written."""
    if name in (TEXT_FIELD, "messages", "prompt") or "data.text_field=" in overrides:
        return overrides
    return f"data.text_field={TEXT_FIELD} {overrides}"


def rows_fix(source: Source, form: Form, name: str) -> str:
    """The fix for a table without names: the command that gives its columns names."""
    fix = named_rows_fix(source, form, _sample_rows(source, form), name)
    return fix or "write a first row with the columns' names"


def _sample_rows(source: Source, form: Form) -> list[list[str]]:
    """The first rows of a CSV, its header too."""
    assert form.csv is not None
    rows: list[list[str]] = []
    with suppress(csv.Error, *DAMAGE), open_text(source, form, "") as stream:
        for _ in range(form.csv.num_skipped):
            next(stream)
        rows += islice(open_csv(stream, form.csv), NUM_SAMPLED)
    return [row for row in rows if row]


def named_rows_fix(source: Source, form: Form, rows: Sequence[Sequence[Any]], name: str) -> str | None:
    """The fix for records that are lists of fields, of which the first may hold names; None without one."""
    if not rows:
        return None
    if _is_multiple_choice(rows):
        asked = 'r[0] + "".join(f"\\n{w}. {t}" for w, t in zip("ABCDEFGH", r[1:-1]))'
        converted, doing = (
            f'{{"prompt": {asked}, "completion": r[-1]}}',
            "make prompts of its questions and their choices",
        )
        loops, overrides, template = ["for r in t if r"], "data.format=prompt ", NEEDS_TEMPLATE
    else:
        has_names = _has_names(rows)
        names = list(rows[0]) if has_names else [f"column{n + 1}" for n in range(len(rows[0]))]
        record = [dict(zip(names, row, strict=False)) for row in rows[1 if has_names else 0 :]]
        field = name if name in names else longest_field(record, name)
        if field is None:
            return None
        doing, template, converted = "name its columns", "", "r"
        answers = find_answers(record[0]) if has_names and name not in names else None
        if has_names:
            loops = ["for n in [next(t)]", "for r in t if r", "for r in [dict(zip(n, r))]"]
        else:
            loops = ["for r in t if r", 'for r in [{f"column{n}": v for n, v in enumerate(r, 1)}]']
        if answers is not None:
            converted, overrides = answers.converted or "r", _with_field(answers.overrides, name)
            template = NEEDS_TEMPLATE
        elif source.keeps_settings and field != name:
            converted, overrides = renamed(record[0], field, name), ""
        else:
            overrides = "" if field == name else f"{override('data.text_field', field)} "
    if source.keeps_settings and template:
        return leave_out_fix(source, "text")
    command = conversion_command(source.file, form, converted, loops, rows=True)
    if command is None:
        return None
    then = source.naming.then_write(command, converted_name(source.file), overrides)
    return f"{doing}: {then}{template}"


def numbered_fix(source: Source, form: Form, names: Sequence[str], name: str) -> str:
    """The fix for a table in which several columns have the name: numbers, and the one with most text."""
    given = [
        f"{each}_{number}" if names.count(each) > 1 else each for number, each in enumerate(names, start=1)
    ]
    sample = _sample_rows(source, form)[1:]
    lengths = {new: sum(len(row[n]) for row in sample if n < len(row)) for n, new in enumerate(given)}
    field = max((new for new, old in zip(given, names, strict=True) if old == name), key=lengths.__getitem__)
    numbered = '[f"{c}_{i}" if n.count(c) > 1 else c for i, c in enumerate(n, 1)]'
    loops = ["for n in [next(t)]", f"for n in [{numbered}]", "for r in t if r", "for r in [dict(zip(n, r))]"]
    converted = renamed({field: ""}, field, name) if source.keeps_settings else "r"
    command = conversion_command(source.file, form, converted, loops, rows=True)
    assert command is not None, "a CSV has a reader"
    overrides = "" if source.keeps_settings else f"{override('data.text_field', field)} "
    then = source.naming.then_write(command, converted_name(source.file), overrides)
    return f"number the columns of the same name: {then}"


def _has_names(rows: Sequence[Sequence[Any]]) -> bool:
    """Whether the first row holds names: short texts, of which no later row repeats one."""
    first = rows[0]
    if not all(isinstance(each, str) and 0 < len(each) < 40 for each in first) or len(set(first)) < len(
        first
    ):
        return False
    later = {field for row in rows[1:] for field in row if isinstance(field, str)}
    is_other = any(not str(field).isidentifier() for row in rows[1:] for field in row)
    return is_other and not later & set(first) and all(each.isidentifier() for each in first)


def _is_multiple_choice(rows: Sequence[Sequence[Any]]) -> bool:
    """A question, its choices and the letter of the right one, as MMLU is published."""
    num_choices = len(rows[0]) - 2
    return num_choices >= 2 and all(
        len(row) == num_choices + 2 and row[-1] in tuple("ABCDEFGH"[:num_choices]) for row in rows
    )


def quoted(text: str) -> str:
    """The text as Python writes it."""
    return json.dumps(text, ensure_ascii=False)


def override(key: str, value: str) -> str:
    """The override as a shell takes it."""
    return shlex.quote(f"{key}={flow_yaml(value)}")
