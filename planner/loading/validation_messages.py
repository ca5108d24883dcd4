"""Validation messages: pydantic's errors as found, expected, fix and "did you mean"."""

import difflib
import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from planner.loading.fault import Fault, Path, dotted
from planner.loading.foreign_names import find_value
from planner.loading.joint_fixes import made_together
from planner.loading.json_schema import field_schema, find_section, is_list
from planner.loading.mixture_faults import as_mixture, drop_parts
from planner.loading.off_spellings import in_another_key
from planner.loading.section_faults import as_section
from planner.loading.trial import is_legal
from planner.loading.unknown_keys import MayReplace, explain_unknown, never
from planner.loading.value_examples import TEXT_MAPPINGS, example_of
from planner.loading.value_fixes import propose_value
from planner.strategy.field_types import NAMES_VARIABLE, show
from planner.yaml12_writer import flow_yaml

MAX_FAULTS = 100  # a file with more is not a strategy
_IS_MISSING = "is missing"
_GPU = ("cluster", "gpu")


def find_faults(
    error: ValidationError,
    data: dict[str, Any],
    unwritten: frozenset[str] = frozenset(),
    may_replace: MayReplace = never,
) -> list[Fault]:
    """One Fault for each path that is wrong in `data`.

    Args:
        unwritten: top-level keys that nobody wrote.
        may_replace: whether an unknown key may be moved to one that is written.
    """

    def fault_of(details: ErrorDetails, document: dict[str, Any]) -> Fault:
        fault = as_mixture(_fault(details, document, unwritten, may_replace), document)
        return in_another_key(fault, document)

    faults: dict[Path, Fault] = {}
    causes: dict[Path, ErrorDetails] = {}
    for details in error.errors(include_url=False)[:MAX_FAULTS]:
        fault = fault_of(details, data)
        faults.setdefault(fault.path, fault)  # a union reports each of its branches; the first one will do
        causes.setdefault(fault.path, details)
    faults = made_together(drop_parts(faults), data, lambda path, mended: fault_of(causes[path], mended))
    meant = {path for fault in faults.values() for path in fault.meant}
    # A misspelt required key is one mistake, not two.
    return [
        Fault(path=path, found=None) if fault.found == _IS_MISSING and _follows(path, meant) else fault
        for path, fault in faults.items()
    ]


def _follows(path: Path, meant: Collection[Path]) -> bool:
    """Whether a missing key is written under another name; a GPU's figures follow from its name."""
    return path in meant or (path[:2] == _GPU and (*_GPU, "name") in meant)


def _fault(
    details: ErrorDetails, data: dict[str, Any], unwritten: frozenset[str], may_replace: MayReplace
) -> Fault:
    kind = details["type"]
    path = (
        details["loc"]
        if kind in ("missing", "default_factory_not_called")
        else _existing(details["loc"], data)
    )
    if kind == "default_factory_not_called":
        return Fault(path=path, found=None, is_derived=True)
    if kind == "missing":
        return _missing(path, data) if not isinstance(path[-1], int) else _too_short(path[:-1], data)
    value = _value_at(path, data)
    if kind == "extra_forbidden":
        written = {key: item for key, item in data.items() if key not in unwritten}
        return explain_unknown(path, value, written, may_replace)
    context: dict[str, Any] = details.get("ctx", {})
    if kind == "switchyard":
        return _own_error(path, value, data, details["loc"], context)
    if kind == "literal_error":
        return _not_one_of(path, value, data, context["expected"])
    if kind == "model_type" and (fault := as_section(path, value, data)) is not None:
        return replace(fault, expected=_expected(kind, path))
    found = f"{show(value)} is {_why(kind)}"
    code = "SW114" if kind.startswith(("greater_than", "less_than")) else "SW113"
    return _with_value(path, value, data, code, found, _expected(kind, path))


def _own_error(path: Path, value: Any, data: dict[str, Any], loc: Path, context: dict[str, Any]) -> Fault:
    """A fault that a validator of the schema describes; without a fix of its own, one from the value."""
    code, found, expected = context["code"], context["found"], context["expected"]
    if context["fix"] is not None or context.get("problems"):
        return Fault(
            path=path,
            code=code,
            found=found,
            expected=expected,
            fix=context["fix"] or "",
            problems=context.get("problems", ()),
        )
    if context["meant"] is not None:
        return _written(path, code, found, expected, context["meant"], context["hint"])
    if loc[-1] == "[key]" and expected == NAMES_VARIABLE:
        name = re.sub(r"[^A-Za-z0-9_]", "_", str(path[-1]))
        name = name if re.match(r"[A-Za-z_]", name) else f"_{name}"
        return Fault(
            path=path, code=code, found=found, expected=expected, fix=f"write {name} instead of {path[-1]}"
        )
    return _with_value(path, value, data, code, found, expected)


def _with_value(path: Path, value: Any, data: dict[str, Any], code: str, found: str, expected: str) -> Fault:
    """A fault with a legal value: the one that seems to be meant, else an example."""
    proposal = propose_value(path, value, data)
    if proposal is not None:
        return _written(path, code, found, expected, proposal.value, proposal.hint)
    example = example_of(path, data)
    field = _field(path)
    is_default = field is not None and example == field.get_default(call_default_factory=False)
    hint = ", the default, or another legal value" if is_default else ", or another legal value"
    return _written(path, code, found, expected, example, hint)


def _written(path: Path, code: str, found: str, expected: str, value: Any, hint: str = "") -> Fault:
    if isinstance(path[-1], int) and (value is None or isinstance(value, (list, tuple))):
        # The example is of the list that the item is in.
        writes = {dotted(path[:-1]): value}
        return Fault(path=path, code=code, found=found, expected=expected, writes=writes, hint=hint)
    if isinstance(path[-1], int):  # an item of a list has no key to write
        fix = f"write {flow_yaml(value)} in its place{hint}"
        return Fault(path=path, code=code, found=found, expected=expected, fix=fix)
    return Fault(
        path=path, code=code, found=found, expected=expected, writes={dotted(path): value}, hint=hint
    )


def _existing(loc: Path, data: Any) -> Path:
    """The part of a location that the data have; pydantic adds the names of union branches to it."""
    path: list[str | int] = []
    for key in loc:
        is_item = isinstance(data, (tuple, list)) and isinstance(key, int) and key < len(data)
        if not is_item and not (isinstance(data, dict) and key in data):
            break
        data = data[key]
        path.append(key)
    return tuple(path)


def _value_at(path: Path, data: Any) -> Any:
    for key in path:
        data = data[key]
    return data


def _field(path: Path) -> FieldInfo | None:
    names = [key for key in path if isinstance(key, str)]
    section = find_section(tuple(names[:-1]))
    return section.written_keys().get(names[-1]) if section is not None and names else None


def _missing(path: Path, data: dict[str, Any]) -> Fault:
    section = find_section(path)
    expected = _expected("", path)
    if section is not None:
        required = [name for name, field in section.written_keys().items() if field.is_required()]
        expected = f"a section with {', '.join(required or section.written_keys())}"
    return Fault(
        path=path,
        code="SW110",
        found=_IS_MISSING,
        expected=expected,
        fix=f"add {path[-1]}: {flow_yaml(_example_with(path, data))}",
    )


def _example_with(path: Path, data: dict[str, Any]) -> Any:
    """An example of a key, with the values that the document has under other programs' names."""
    example = example_of(path)
    if isinstance(example, dict):
        return {key: _example_with((*path, key), data) for key in example}
    found = find_value(data, dotted(path))
    return found if found is not None and is_legal(path, found) else example


def _too_short(path: Path, data: dict[str, Any]) -> Fault:
    value = _value_at(path, data)
    return _with_value(path, value, data, "SW113", f"a list of {len(value)}", _expected("", path))


def _not_one_of(path: Path, value: Any, data: dict[str, Any], expected: str) -> Fault:
    legal = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
    listed = f"one of: {', '.join(legal)}"
    found = f"{show(value)} is not allowed"
    proposal = propose_value(path, value, data)
    close = difflib.get_close_matches(str(value).lower(), legal, n=1, cutoff=0.5)
    meant = proposal.value if proposal is not None else close[0] if close else None
    if meant is not None:
        return _written(path, "SW115", f"{found}; did you mean {meant}?", listed, meant)
    return _written(path, "SW115", found, listed, example_of(path, data), ", or another of these")


_WHY = {
    "int_type": "not an integer",
    "int_from_float": "not an integer",
    "float_type": "not a number",
    "bool_type": "not true or false",
    "string_type": "not text",
    "tuple_type": "not a list",
    "dict_type": "not a mapping",
    "model_type": "not a mapping",
    "finite_number": "not a finite number",
    "missing": "missing",
    "string_too_short": "too short",
    "string_too_long": "too long",
    "too_long": "too long",
    "too_short": "too short",
}


def _why(kind: str) -> str:
    if kind.startswith(("greater_than", "less_than")):
        return "out of range"
    return _WHY.get(kind, "of the wrong kind")


_KINDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def legal_values(path: Path) -> str:
    """The legal values of a key in words."""
    return _expected("", path)


def _expected(kind: str, path: Path) -> str:
    """The legal values of a key in words, from its JSON schema, so that they are written once."""
    section = find_section(path)
    if section is not None and is_list(path):
        return f"a list of mappings with {', '.join(section.written_keys())}"
    if section is not None and not isinstance(path[-1], int):
        return f"a mapping with some of: {', '.join(section.written_keys())}"
    names = tuple(key for key in path if isinstance(key, str))
    owner = find_section(names[:-1])
    if section is not None:
        return f"a mapping with {', '.join(section.written_keys())}"
    if owner is None or names[-1] not in owner.written_keys():
        return "text on one line" if names[:-1] in TEXT_MAPPINGS else "text, a number, true or false"
    schema = field_schema(path) or {}
    too_much = kind.startswith("less_than")
    branches = (describe(branch, with_maximum=too_much) for branch in schema.get("anyOf", [schema]))
    words = ", or ".join(dict.fromkeys(branches))
    if field := _field(path):
        example = field.examples[0] if field.examples else None
        words += f", for example {example}" if example is not None and "for example" not in words else ""
    return words


def describe(schema: dict[str, Any], *, with_maximum: bool = False) -> str:
    """The legal values of a JSON schema in words.

    `with_maximum`: name a maximum of 10⁹ or more too, which is noise unless it was exceeded.
    """
    if "enum" in schema:
        return f"one of: {', '.join(str(value) for value in schema['enum'])}"
    if "pattern" in schema and "examples" in schema:
        return f"a number with a unit, for example {schema['examples'][0]}"
    words = _KINDS.get(schema.get("type", ""), "a value")
    if schema.get("type") == "array" and "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])} ({describe(schema['prefixItems'][0])} each)"
    if schema.get("type") == "array" and schema.get("items", {}).get("type") == "integer":
        return f"a list (each {describe(schema['items'], with_maximum=with_maximum)})"
    bounds = [
        f"{word} {schema[key]:g}" if abs(schema[key]) < 10**6 else f"{word} {schema[key]:,}"
        for key, word in (
            ("exclusiveMinimum", "more than"),
            ("minimum", "at least"),
            ("exclusiveMaximum", "less than"),
            ("maximum", "at most"),
        )
        if key in schema and not (key == "maximum" and schema[key] >= 10**9 and not with_maximum)
    ]
    return ", ".join([words, *bounds])
