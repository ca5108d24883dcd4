"""Strategy with values that another program would fill in: one Problem for all of them, with the values."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace

from planner.loading.fault import dotted
from planner.loading.interpolations import Interpolation, find_interpolations, with_resolved
from planner.loading.json_schema import field_schema
from planner.loading.value_examples import example_of
from planner.problems import Problem
from planner.strategy.field_types import PATTERN_OF_PATHS
from planner.units import shorten
from planner.yaml12 import Document, Entry, Mapping
from planner.yaml12_writer import flow_yaml

_NAMED = re.compile(r"\$\{(\w+)\}")
# What a shell reads later, on the hosts.
_SHELL = (("launch",), ("operate", "hook"))
_OTHER = re.compile(r"\$\{[^}]*[^\w}][^}]*\}|\{\{")  # in a path: more than a variable's name
_JINJA = re.compile(r"\{\{[^{}\n]*\}\}|\{%[^{}\n]*%\}")


def find_template(text: str, file: str | None) -> Problem | None:
    """The Problem of a text with marks of Jinja, which is YAML only once they are filled in."""
    match = _JINJA.search(text)
    if match is None:
        return None
    return Problem(
        code="SW127",
        line=text.count("\n", 0, match.start()) + 1,
        found=f"{shorten(match[0], 60)} is a mark of a template, which nothing here fills in",
        expected="values as they are meant",
        fix="write the values out, or give the file that the template's program makes",
        file=file,
    )


def resolved(root: Entry, file: str | None) -> tuple[Entry, list[Problem], frozenset[tuple[str, ...]]]:
    """The document with values in place of interpolations, one Problem for those of the file and one for each
    override, and the keys of which nothing here says the value: these have examples."""
    found = [one for one in find_interpolations(root) if not _is_expanded(root, one)]
    groups: dict[str | None, list[Interpolation]] = {}
    for one in found:
        groups.setdefault(_entry_at(root, one.path).override, []).append(one)
    problems = [_problem(root, group, file) for group in groups.values()]
    unknown = frozenset(one.path for one in found if one.entry is None)
    stood_in = [one if one.entry is not None else replace(one, entry=_example(one.path)) for one in found]
    return with_resolved(root, stood_in), problems, unknown


def _example(path: Sequence[str]) -> Entry | None:
    example = example_of(path)
    return None if example is None else Document(flow_yaml(example), None).root


def _is_expanded(root: Entry, one: Interpolation) -> bool:
    """Whether it is not for a loader to resolve: a shell does, or it is a variable in a path."""
    if any(one.path[: len(keys)] == keys for keys in _SHELL):
        return True
    schema = field_schema(one.path) or {}
    patterns = {branch.get("pattern") for branch in (schema, *schema.get("anyOf", ()))}
    if one.path == ("cluster", "hosts", "hostfile"):
        patterns.add(PATTERN_OF_PATHS)
    if PATTERN_OF_PATHS not in patterns or _OTHER.search(one.text):
        return False
    keys = root.value.entries if isinstance(root.value, Mapping) else {}
    return all(name in os.environ or name not in keys for name in _NAMED.findall(one.text))


def _problem(root: Entry, found: Sequence[Interpolation], file: str | None) -> Problem:
    first = _entry_at(root, found[0].path)
    shown = ", ".join(f"{dotted(one.path)}: {shorten(one.text, 40)}" for one in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    is_given = first.override is not None
    mark = "=" if is_given else ": "
    written = (f"{dotted(one.path)}{mark}{_value(one)}" for one in found)
    unknown = [dotted(one.path) for one in found if one.entry is None]
    hint = f", with your values for {', '.join(unknown)}" if unknown else ""
    return Problem(
        code="SW127",
        line=None if is_given else first.line,
        found=f"nothing here resolves an interpolation or a variable: {shown}{more}",
        expected="values as they are meant; an alias of YAML (&name, *name) repeats one",
        fix=f"write {' '.join(written) if is_given else ', '.join(written)}{hint}",
        file=None if is_given else file,
        override=first.override,
    )


def _value(one: Interpolation) -> str:
    return flow_yaml(example_of(one.path) if one.entry is None else one.entry.plain())


def _entry_at(root: Entry, path: Sequence[str]) -> Entry:
    place = root
    for key in path:
        place = place.value.entries[key]  # type: ignore[union-attr]
    return place
