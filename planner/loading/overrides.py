"""Command-line overrides (`parallel.ep=2`), put into the document before it is checked."""

import re
import shlex
from functools import partial

from yaml.reader import Reader

from planner.loading.override_spellings import (
    KEY,
    fix_of_nothing,
    keys_of_section,
    left_out,
    meant_by,
    own_key,
    quote_items,
    split_overrides,
    unquoted,
    write_overrides,
)
from planner.problems import Problem
from planner.strategy.field_types import show
from planner.strategy.parallel import parse_short_name
from planner.units import shorten
from planner.yaml12 import Document, Entry, Mapping
from planner.yaml12_scalars import MAX_DIGITS, resolve_scalar
from planner.yaml12_writer import flow_yaml

# Keys of what is written as a mapping or, shorter, as one value.
_ALSO_MAPPINGS = {
    "cluster.hosts.hostfile",
    "cluster.gpu.memory",
    "cluster.gpu.memory_bandwidth",
    "cluster.gpu.peak",
    "runtime.recompute.layers",
}

_PATHS = ("data.path", "data.tokenizer", "model.init_from")


def apply_overrides(root: Entry, overrides: tuple[str, ...]) -> tuple[Entry, list[Problem]]:
    """The document with the overrides in it, and what is wrong with the overrides themselves."""
    problems: list[Problem] = []
    given: dict[str, str] = {}
    for raw in overrides:
        text = raw.encode(errors="backslashreplace").decode()  # bytes of the command line that are not UTF-8
        inner = unquoted(text)
        if inner is not None:
            found, fix = "quotes around an override", write_overrides([inner])
            problems.append(_problem("SW121", text, None, found, "key=value", fix))
            continue
        key, _, value = text.partition("=")
        key = key.strip()
        if "=" not in text or not KEY.fullmatch(key):
            problems.append(
                _problem(
                    "SW121",
                    text,
                    None,
                    "not an override",
                    "key=value, for example parallel.ep=2",
                    meant_by(text),
                )
            )
            continue
        several = split_overrides(text)
        if len(several) > 1:
            fix = f"{write_overrides(several)}, each an argument of its own"
            found = f"{len(several)} overrides in one argument"
            problems.append(_problem("SW121", text, None, found, "one key=value in an argument", fix))
            continue
        named = own_key(key)
        if named not in (None, key):
            fix = write_overrides([f"{named}={value}"])
            problems.append(_problem("SW121", text, None, f"{key} is not a dotted key", "key=value", fix))
            continue
        if re.search(r"\[\d+\]|\.\d+(\.|$)", key):
            path = re.split(r"\[|\.\d", key)[0]
            problems.append(
                _problem(
                    "SW122",
                    text,
                    path,
                    "a single item of a list cannot be overridden",
                    "the complete list",
                    f"write {path}=[…]",
                )
            )
            continue
        rival = next((k for k in given if k == key or k.startswith(f"{key}.")), None)
        if rival is not None:
            found = f"overrides the earlier {given[rival]!r}"
            problems.append(
                _problem("SW123", text, key, found, "each key overridden once", "leave this override out")
            )
            continue
        given[key] = text
        # Read as null it would train on other data, from other weights, or without a limit.
        if not value.strip() and (filled := fix_of_nothing(key, partial(_at, root))) is not None:
            found = "nothing after the =, as of a variable that is not set"
            expected = f"a {'path' if key in _PATHS else 'value'}, or null"
            problems.append(_problem("SW117", text, key, found, expected, filled))
            continue
        entry, mistakes = _read_value(value, text, key)
        if entry is None:
            problems += mistakes
            continue
        keys = tuple(key.split("."))
        lost = left_out(keys, entry.value, _at(root, keys))
        if lost:
            found = f"it would be the whole section, without {', '.join(lost)}"
            each = keys_of_section(keys, entry.plain())
            fix = write_overrides(each) if each else f"leave {key} out"
            problems.append(_problem("SW126", text, key, found, "the keys that change, one by one", fix))
            continue
        root, problem = _put(root, keys, entry, text, key)
        if problem is not None:
            problems.append(problem)
    return root, problems


def _read_value(value: str, text: str, key: str) -> tuple[Entry | None, list[Problem]]:
    """The value of an override, or what is wrong with it.

    YAML where it opens a list, a mapping or a quoted text; else it is one plain value, up to its last
    character: `data.path=/my #1 corpus` and `data.path=*.txt` are paths.
    """
    plain = value.strip()
    shown = shorten(text, 200)
    if plain.startswith(("[", "{", '"', "'")) or Reader.NON_PRINTABLE.search(plain):
        document = Document(value, None, override=shown)
        is_form = any(problem.code == "SW102" for problem in document.problems)
        quoted = quote_items(plain) if is_form else None
        fix = "correct the value" if quoted is None else write_overrides([f"{key}={quoted}"])
        return document.root if not document.problems else None, [
            _problem(p.code, text, key, p.found, p.expected, fix) for p in document.problems
        ]
    try:
        return Entry(value=resolve_scalar(plain), line=None, override=shown), []
    except ValueError as error:
        problem = _problem(
            "SW107", text, key, str(error), f"at most {MAX_DIGITS} digits", "write fewer digits"
        )
        return None, [problem]


def _at(place: Entry, keys: tuple[str, ...]) -> object:
    """The value at a path of the document; None where there is none."""
    for key in keys:
        if not isinstance(place.value, Mapping) or key not in place.value.entries:
            return None
        place = place.value.entries[key]
    return place.value


def _put(
    place: Entry, keys: tuple[str, ...], value: Entry, text: str, path: str
) -> tuple[Entry, Problem | None]:
    """`place` with `value` under `keys`; a copy on the way down, because aliases share their entries."""
    if not keys:
        return value, None
    inside = place.value
    if isinstance(inside, str) and path.startswith("parallel."):
        try:
            degrees = parse_short_name(inside)
        except ValueError:
            return place, None  # reported where the short name is written
        inside = Mapping(entries={k: Entry(value=v, line=place.line) for k, v in degrees.items()})
    if inside is None:
        inside = Mapping()
    if not isinstance(inside, Mapping):
        parent = path.removesuffix("." + ".".join(keys))
        what = show(inside)
        found = f"{parent} is {what}, so it has no key {keys[0]!r}"
        fix = f"leave {path} out, or write {parent}=VALUE"
        if path == "cluster.gpu.name":
            fix = write_overrides([f"{parent}={flow_yaml(value.plain())}"])
        if path in _ALSO_MAPPINGS:
            written = {"name": inside} if parent == "cluster.gpu" else {}
            mapping = flow_yaml({**written, keys[0]: value.plain()})
            fix = f"write {shlex.quote(f'{parent}={mapping}')}"
        return place, _problem("SW124", text, path, found, f"a value for {parent} itself", fix)
    entries = dict(inside.entries)
    inner = entries.get(keys[0], Entry(value=None, line=place.line, override=text))
    entries[keys[0]], problem = _put(inner, keys[1:], value, text, path)
    return Entry(value=Mapping(entries=entries), line=place.line, override=place.override), problem


def _problem(code: str, text: str, path: str | None, found: str, expected: str, fix: str) -> Problem:
    return Problem(code=code, path=path, found=found, expected=expected, fix=fix, override=shorten(text, 200))
