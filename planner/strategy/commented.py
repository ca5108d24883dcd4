"""Commented strategy: every key with its value, its description beside it."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from planner.strategy.field_types import AS_TEXT, Section
from planner.strategy.schema import Strategy
from planner.yaml12_writer import sections_yaml

_WIDTH = 110
_COMMENT_COLUMN = 34


def commented_yaml(strategy: Strategy, notes: Mapping[str, str], replaced: Mapping[str, str]) -> str:
    """The strategy as YAML that `loads` reads back to an equal one.

    Args:
        notes: comments by dotted key, in place of the key's description.
        replaced: lines by dotted key, in place of its own; a note is printed above.
    """
    dumped = strategy.model_dump(context=AS_TEXT)
    lines: list[str] = []
    for name, value in dumped.items():
        section = getattr(strategy, name)
        if not isinstance(section, Section):
            if name != "claims":
                lines += _entry(name, value, notes.get(name, _description(type(strategy), name)), "")
            continue
        lines += ["", f"{name}:"]
        for key, item in value.items():
            path = f"{name}.{key}"
            if path in replaced:
                lines += (f"  # {line}" for line in textwrap.wrap(notes.get(path, ""), _WIDTH - 4))
                lines += textwrap.indent(replaced[path], "  ").splitlines()
            else:
                lines += _entry(key, item, notes.get(path, _description(type(section), key)), "  ")
    return "\n".join(lines) + "\n"


def _description(section: type[Section], key: str) -> str:
    return section.model_fields[key].description or ""


def _entry(key: str, value: Any, comment: str, indent: str) -> Iterator[str]:
    """The key on one line with its comment behind it, or above it where it is long."""
    comment = comment.replace("`", "")
    written = sections_yaml({"_": {key: value}}).splitlines()[1:]
    text = [indent + line[2:] for line in written]
    behind = f"{text[0]:<{_COMMENT_COLUMN}}  # {comment}"
    if len(text) == 1 and len(behind) <= _WIDTH:
        yield behind if comment else text[0]
        return
    for line in textwrap.wrap(comment, _WIDTH - len(indent) - 2):
        yield f"{indent}# {line}"
    yield from text
