"""JSON schema of a strategy for editors; sections and dotted keys of the schema as data."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, get_args

from planner.hardware.hardware_file import devices
from planner.strategy.field_types import Section
from planner.strategy.parallel import SHORT_NAME_PATTERN
from planner.strategy.schema import Strategy
from planner.units import UNITS, format_quantity, quantity_pattern


def find_section(path: Sequence[str | int]) -> type[Section] | None:
    """The section at a path; None for a value or an unknown key."""
    section: type[Section] | None = Strategy
    for key in path:
        if section is None:
            return None
        if isinstance(key, int):
            continue  # an item of a list, which stays the section of its items
        field = section.written_keys().get(key)
        section = _section_in(field.annotation) if field is not None else None
    return section


def field_schema(path: Sequence[str | int]) -> Mapping[str, Any] | None:
    """The JSON schema of a key's value; None for a section or an unknown key."""
    names = tuple(key for key in path if isinstance(key, str))
    owner = find_section(names[:-1])
    if owner is None or not names or names[-1] not in owner.written_keys():
        return None
    found: Mapping[str, Any] = _properties(owner)[names[-1]]
    return found


@lru_cache(maxsize=64)
def _properties(section: type[Section]) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = section.model_json_schema()["properties"]
    return properties


def is_list(path: tuple[str | int, ...]) -> bool:
    """Whether the value at this path is a list of sections."""
    return path in (("claims",), ("data", "mix"))


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part)) is not None), None)


@lru_cache(maxsize=1)
def list_paths() -> tuple[str, ...]:
    """Every dotted key of a strategy, without the items of lists."""

    def walk(section: type[Section], path: tuple[str, ...]) -> Iterator[str]:
        for name, field in section.written_keys().items():
            yield ".".join((*path, name))
            inner = _section_in(field.annotation)
            if inner is not None and not is_list((*path, name)):
                yield from walk(inner, (*path, name))

    return tuple(walk(Strategy, ()))


def json_schema() -> str:
    """The JSON schema that completes and checks keys in editors, as the bytes of its file.

    It describes what is written (quantities are texts with a unit, `parallel` may be a short name), where
    pydantic's own describes what is held.
    """
    schema = Strategy.model_json_schema(mode="validation")
    sections = schema["$defs"]
    for section in (schema, *sections.values()):
        for field in section["properties"].values():
            dimension = _DIMENSIONS.get(field.get("pattern", ""))
            if dimension is not None and "default" in field:
                field["default"] = format_quantity(field["default"], dimension)
            if "$ref" in field:
                field.pop("default", None)  # a section; its keys have their defaults
    training = sections["Training"]
    training["anyOf"] = [{"required": ["steps"]}, {"required": ["tokens"]}]
    training["properties"]["steps"]["type"] = ["integer", "null"]
    top = schema["properties"]
    short_name = {"type": "string", "pattern": SHORT_NAME_PATTERN, "examples": ["EP64_TP2_PP1_DP1"]}
    top["parallel"] = {"anyOf": [top["parallel"], short_name]}
    top["claims"].pop("default")
    gpu = sections["Cluster"]["properties"]["gpu"]
    named = {"type": "string", "examples": list(devices())}
    sections["Cluster"]["properties"]["gpu"] = {"anyOf": [{"$ref": gpu.pop("$ref")}, named], **gpu}
    described = sections["Gpu"].pop("required")  # or overrides of a named one's
    sections["Gpu"]["anyOf"] = [{"required": ["name"]}, {"required": described}]
    for name in ("num_key_value_heads", "head_dim"):
        derived = sections["ModelShape"]["properties"][name]
        derived["type"] = ["integer", "null"]
    for section, name in (("Launch", "environment"), ("Kubernetes", "labels")):
        sections[section]["properties"][name]["additionalProperties"]["type"] = ["string", "integer"]
    sections["Operate"]["properties"]["hook"]["anyOf"].append({"type": "string"})
    return (
        json.dumps(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema},
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
    )


_DIMENSIONS = {quantity_pattern(dimension): dimension for dimension in UNITS}
