"""The fix for records that have their text in another field: its name, or the command that mends the file."""

from collections.abc import Sequence
from typing import Any

from runtime.data.conversion import conversion_command
from runtime.data.corpus import Source
from runtime.data.form import Form
from runtime.data.naming import converted_name
from runtime.data.nesting import find_marked
from runtime.data.prompt_columns import at
from runtime.data.shape_fix import LEAVE_OUT, nested_fix, override, quoted, renamed, sample_records, shape_fix
from runtime.data.text_field import find_keys, has_field, listed, longest_field

MAX_NAMED = 12  # elements of a list whose kind is looked at


def suggest_field(source: Source, form: Form, name: str, *, is_whole: bool = True) -> str:
    """The fix for the first records: what makes them records of text or of conversations, or the field with
    the most text.

    Args:
        is_whole: whether each record can be read; otherwise no command converts the file.
    """
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
    return other_field_fix(source, form, records, field, name, is_whole=is_whole)


def other_field_fix(
    source: Source,
    form: Form,
    records: Sequence[dict[str, Any]],
    field: str,
    name: str,
    before: str = "",
    *,
    is_whole: bool = True,
) -> str:
    """The fix that reads another field, and leaves out the records that lack it.

    Args:
        records: the first ones.
        name: the field that should hold the text.
        before: another override, with a space after it.
        is_whole: as for suggest_field.
    """
    overrides = f"{before}{override('data.text_field', field)}"
    if source.keeps_settings:
        command = _command_without(source, form, records, field, name) if is_whole else None
        if command is None:
            return f"give its records their text under {name}, or leave the file out of data.path"
        return f"take {field} as {name}: {source.naming.then_write(command, converted_name(source.file))}"
    if all(has_field(record, field) for record in records):
        return f"write {overrides}{LEAVE_OUT}"
    command = _command_without(source, form, records, field) if is_whole else None
    if command is None:
        mended = f"correct or remove the records without {field} and write {overrides}"
        return f"{mended}; or leave the file out of data.path"
    then = source.naming.then_write(command, converted_name(source.file), f"{overrides} ")
    return f"leave out the records without {field}: {then}{LEAVE_OUT}"


def _command_without(
    source: Source, form: Form, records: Sequence[dict[str, Any]], field: str, name: str | None = None
) -> str | None:
    """The command that leaves out the records without a text in the field; None if there is none.

    Args:
        name: the field that gets the text too.
    """
    found = ((record, find_keys(record, field)) for record in records if has_field(record, field))
    record, keys = next((each for each in found if each[1]), ({}, None))
    if keys is None:
        return None
    tests, inner = [], "r"
    for key in keys[:-1]:
        tests.append(f"isinstance({inner}.get({quoted(key)}), dict)")
        inner += f"[{quoted(key)}]"
    tests.append(f"isinstance({inner}.get({quoted(keys[-1])}), str)")
    converted = "r" if name is None else renamed(record, field, name)
    return conversion_command(source.file, form, converted, [f"if {' and '.join(tests)}"])


def absent_fix(source: Source, form: Form, name: str) -> str | None:
    """The fix where some of the records lack the field: their own text, or the file without them."""
    records = sample_records(source, form)
    lacking = [record for record in records if not has_field(record, name)]
    field = longest_field(lacking, name)
    if not lacking:
        return None
    if field is None:
        doing, command = (
            f"leave out the records without {name}",
            _command_without(source, form, records, name),
        )
    elif "." in name or "." in field:
        return None
    else:
        doing = f"take {field} where {name} is missing"
        converted = f"r if {quoted(name)} in r else dict(r, **{{{quoted(name)}: r.get({quoted(field)})}})"
        command = conversion_command(source.file, form, converted)
    return command and f"{doing}: {source.naming.then_write(command, converted_name(source.file))}"


def marked_fix(source: Source, form: Form, name: str) -> str | None:
    """The fix where some texts are lists of parts: all of them joined."""
    found = (find_marked(record, name) for record in sample_records(source, form))
    marked = next(filter(None, found), None)
    return None if marked is None else nested_fix(source, form, marked, name, "text")


def renamed_fix(source: Source, form: Form, name: str) -> str:
    """The fix where an empty name, which no override can write, is that of the text."""
    command = conversion_command(source.file, form, f'dict(r, **{{{quoted(name)}: r.get("")}})')
    if command is None:
        return "give the column of the text a name"
    return f"give its text a name: {source.naming.then_write(command, converted_name(source.file))}"


def without_empty_fix(source: Source, form: Form, name: str) -> str | None:
    """The fix where most records are empty and no other field has text: the file without them."""
    if "." in name or longest_field(sample_records(source, form), name) is not None:
        return None
    command = conversion_command(source.file, form, "r", [f"if {at(name)}"])
    if command is None:
        return None
    return f"leave out the empty records: {source.naming.then_write(command, converted_name(source.file))}"


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
