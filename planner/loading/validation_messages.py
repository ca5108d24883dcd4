"""Validation messages: pydantic's errors as found, expected, fix and "did you mean"."""

import difflib
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from planner.loading.json_schema import find_section, list_paths
from planner.loading.unknown_keys import find_refusal, find_synonym
from planner.problems import Problem
from planner.strategy.field_types import show

MAX_FAULTS = 100  # a file with more is not a strategy
_IS_MISSING = "is missing"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing wrong at a path; `found` is None when it only follows from another fault."""

    path: tuple[str | int, ...]
    found: str | None
    code: str = ""
    expected: str = ""
    fix: str = ""
    problems: tuple[Problem, ...] = ()  # of a file that the value names
    is_derived: bool = False  # a default that could not be taken from other keys because there were faults
    meant: tuple[str, ...] | None = None  # for an unknown key: the path of the key that seems to be meant


def find_faults(error: ValidationError, data: dict[str, Any]) -> list[Fault]:
    """One Fault for each path that is wrong in `data`."""
    faults: dict[tuple[str | int, ...], Fault] = {}
    for details in error.errors(include_url=False)[:MAX_FAULTS]:
        fault = _fault(details, data)
        faults.setdefault(fault.path, fault)  # a union reports each of its branches; the first one will do
    meant = {fault.meant for fault in faults.values()}
    # A misspelt required key is one mistake, not two.
    return [
        Fault(path=path, found=None) if fault.found == _IS_MISSING and path in meant else fault
        for path, fault in faults.items()
    ]


def _fault(details: ErrorDetails, data: dict[str, Any]) -> Fault:
    kind = details["type"]
    path = (
        details["loc"]
        if kind in ("missing", "default_factory_not_called")
        else _existing(details["loc"], data)
    )
    if kind == "default_factory_not_called":
        return Fault(path=path, found=None, is_derived=True)
    if kind == "missing":
        return _missing(path) if not isinstance(path[-1], int) else _too_short(path[:-1], data)
    if kind == "extra_forbidden":
        return _unknown_key(path)
    context: dict[str, Any] = details.get("ctx", {})
    if kind == "switchyard":
        fix = context["fix"] or _example_fix(path)
        return Fault(
            path=path,
            code=context["code"],
            found=context["found"],
            expected=context["expected"],
            fix=fix,
            problems=context.get("problems", ()),
        )
    value = _value_at(path, data)
    if kind == "literal_error":
        return _not_one_of(path, value, context["expected"])
    found = f"{show(value)} is {_why(kind)}"
    code = "SW114" if kind.startswith(("greater_than", "less_than")) else "SW113"
    return Fault(path=path, code=code, found=found, expected=_expected(kind, path), fix=_fix(path, value))


def _existing(loc: tuple[str | int, ...], data: Any) -> tuple[str | int, ...]:
    """The part of a location that the data have; pydantic adds the names of union branches to it."""
    path: list[str | int] = []
    for key in loc:
        is_item = isinstance(data, (tuple, list)) and isinstance(key, int) and key < len(data)
        if not is_item and not (isinstance(data, dict) and key in data):
            break
        data = data[key]
        path.append(key)
    return tuple(path)


def _value_at(path: tuple[str | int, ...], data: Any) -> Any:
    for key in path:
        data = data[key]
    return data


def _field(path: tuple[str | int, ...]) -> FieldInfo | None:
    names = [key for key in path if isinstance(key, str)]
    section = find_section(tuple(names[:-1]))
    return section.written_keys().get(names[-1]) if section is not None and names else None


def _missing(path: tuple[str | int, ...]) -> Fault:
    key = path[-1]
    section = find_section(path)
    if section is not None:
        required = [name for name, field in section.written_keys().items() if field.is_required()]
        expected = f"a section with {', '.join(required)}"
        return Fault(
            path=path, code="SW110", found=_IS_MISSING, expected=expected, fix=f"add the section {key}:"
        )
    field = _field(path)
    example = field.examples[0] if field is not None and field.examples else "…"
    fix = f"add {key}: {example}"
    return Fault(path=path, code="SW110", found=_IS_MISSING, expected=_expected("", path), fix=fix)


def _too_short(path: tuple[str | int, ...], data: Any) -> Fault:
    found = f"a list of {len(_value_at(path, data))}"
    return Fault(path=path, code="SW113", found=found, expected=_expected("", path), fix=_example_fix(path))


def _unknown_key(path: tuple[str | int, ...]) -> Fault:
    key = str(path[-1])
    refused = find_refusal(key)
    if refused is not None:
        return Fault(
            path=path,
            code=refused.code,
            found=refused.why,
            expected=_legal_keys(path[:-1]),
            fix=refused.fix,
        )
    known = _legal(path[:-1])
    prefix = "".join(f"{part}." for part in path[:-1] if isinstance(part, str))
    guess = find_synonym(key)
    if guess is None:
        close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
        guess = prefix + close[0] if close else None
    if guess is None:
        guess = next((other for other in list_paths() if other.rpartition(".")[2] == key.lower()), None)
    if guess is None:
        tails = {other.rpartition(".")[2]: other for other in reversed(list_paths())}
        close = difflib.get_close_matches(key.lower(), list(tails), n=1, cutoff=0.8)
        guess = tails[close[0]] if close else None
    if guess is None:
        return Fault(
            path=path,
            code="SW111",
            found="unknown key",
            expected=_legal_keys(path[:-1]),
            fix=f"remove {key}",
        )
    name = guess.rpartition(".")[2] if guess.rpartition(".")[0] + "." == prefix else guess
    found = f"unknown key; did you mean {name}?"
    fix = f"write {name} instead of {key}" if name != guess or "." not in guess else f"move it to {guess}"
    meant = tuple(guess.split("."))
    return Fault(path=path, code="SW111", found=found, expected=_legal_keys(path[:-1]), fix=fix, meant=meant)


def _legal(path: tuple[str | int, ...]) -> list[str]:
    section = find_section(path)
    return list(section.written_keys()) if section is not None else []


def _legal_keys(path: tuple[str | int, ...]) -> str:
    return f"one of: {', '.join(_legal(path))}"


def _not_one_of(path: tuple[str | int, ...], value: Any, expected: str) -> Fault:
    legal = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
    close = difflib.get_close_matches(str(value).lower(), legal, n=1, cutoff=0.5)
    found = f"{show(value)} is not allowed" + (f"; did you mean {close[0]}?" if close else "")
    key = path[-1]
    fix = f"set {key} to {close[0]}" if close else f"set {key} to one of these"
    return Fault(path=path, code="SW115", found=found, expected=f"one of: {', '.join(legal)}", fix=fix)


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


def _expected(kind: str, path: tuple[str | int, ...]) -> str:
    """The legal values of a key in words, from its JSON schema, so that they are written once."""
    section = find_section(path)
    if section is not None and not isinstance(path[-1], int):
        return f"a mapping with some of: {', '.join(section.written_keys())}"
    names = tuple(key for key in path if isinstance(key, str))
    owner = find_section(names[:-1])
    if section is not None:
        return f"a mapping with {', '.join(section.written_keys())}"
    if owner is None or names[-1] not in owner.written_keys():
        return (
            "text on one line" if names[:2] == ("launch", "environment") else "text, a number, true or false"
        )
    schema = owner.model_json_schema()["properties"][names[-1]]
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


def _fix(path: tuple[str | int, ...], value: Any) -> str:
    key = path[-1]
    field = _field(path)
    is_switch = field is not None and field.annotation is bool
    if is_switch and isinstance(value, str) and value.lower() in ("yes", "on", "no", "off"):
        return (
            f"write {'true' if value.lower() in ('yes', 'on') else 'false'}: YAML 1.2 reads {value} as text"
        )
    if value is None and not isinstance(key, int):
        return f"remove {key}, or give it a value"
    return _example_fix(path)


def _example_fix(path: tuple[str | int, ...]) -> str:
    field = _field(path)
    key = path[-1] if path else "it"
    if isinstance(key, int) or field is None:
        return "correct the value"
    if field.examples:
        return f"write {key}: {field.examples[0]}"
    owner = find_section(tuple(name for name in path[:-1] if isinstance(name, str)))
    schema = {} if owner is None else owner.model_json_schema()["properties"][key]
    if "pattern" in schema and "examples" in schema:  # a quantity, whose default has no unit
        return f"write {key}: {schema['examples'][0]}, or another legal value"
    default = field.get_default(call_default_factory=False)
    if isinstance(default, bool):
        return f"write {key}: {str(default).lower()}"
    if isinstance(default, (int, float, str)):
        return f"write {key}: {default}, the default, or another legal value"
    return f"correct {key}, or remove it"
