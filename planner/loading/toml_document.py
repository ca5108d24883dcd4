"""Document in TOML, as torchtitan writes its jobs, as the tree of a YAML document with its lines."""

import datetime
import re
import sys
from typing import Any

from planner.yaml12 import Entry, Mapping

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same parser, which the standard library has since Python 3.11
    import tomli as tomllib

_TABLE = re.compile(r"^\s*\[\[?\s*([^\]#]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*("[^"]*"|'[^']*'|[A-Za-z0-9_-]+(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=""")


def looks_like_toml(text: str) -> bool:
    """Whether a text has a table or a key as TOML writes them, and no YAML or JSON in their place."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return bool(lines) and bool(_TABLE.match(lines[0]) or _KEY.match(lines[0]))


def read_toml(text: str) -> Mapping | None:
    """The top level of a TOML document; None where it is not one."""
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    return _mapping(content, _lines(text), ())


def why_not_toml(text: str) -> tuple[str, int | None] | None:
    """The first mistake of form and its line; None where there is none."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).partition(" (at ")
        line = re.match(r"line (\d+)", place)
        return what, int(line[1]) if line else None
    except RecursionError:
        return "values are nested too deeply", None
    return None


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Where each key is written; of lists of tables the first."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if heading := _TABLE.match(line):
            table = _parts(heading[1])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault((*table, *_parts(key[1])), number)
    return found


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _mapping(content: dict[str, Any], lines: dict[tuple[str, ...], int], path: tuple[str, ...]) -> Mapping:
    return Mapping(entries={key: _entry(value, lines, (*path, key)) for key, value in content.items()})


def _entry(value: Any, lines: dict[tuple[str, ...], int], path: tuple[str, ...]) -> Entry:
    line = lines.get(path)
    if isinstance(value, dict):
        return Entry(value=_mapping(value, lines, path), line=line)
    if isinstance(value, list):
        return Entry(value=tuple(_entry(item, lines, path) for item in value), line=line)
    if isinstance(value, (datetime.date, datetime.time)):
        value = value.isoformat()
    return Entry(value=value, line=line)
