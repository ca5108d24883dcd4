"""Keys at another level than theirs: all sections inside one key, keys of sections at the top level, keys in
another case. One cause is one Problem; the document is mended, so that its other mistakes are told too."""

import re
from collections.abc import Mapping as MappingOf
from dataclasses import replace
from typing import Any

from planner.loading.foreign_names import find_foreign, own_tails
from planner.loading.json_schema import find_section, is_list, list_paths
from planner.problems import Problem
from planner.units import shorten
from planner.yaml12 import Entry, Mapping
from planner.yaml12_writer import flow_yaml

_REQUIRED = frozenset({"cluster", "model", "training"})
_FEW = 3  # keys with the same mistake that are told together
_LEVEL, _CASE = "keys of sections are outside of them", "keys are in lower case with underscores"

Path = tuple[str, ...]


def mend_nesting(root: Entry, file: str | None) -> tuple[Entry, list[Problem]]:
    """The document with its keys where they belong, and one Problem for each cause."""
    root, problems = _unwrapped(root, file)
    for why, moves in ((_LEVEL, _to_their_sections(root)), (_CASE, _in_lower_case(root))):
        if moves:
            problems.append(_problem(root, why, moves, file))
            for path, target in moves.items():
                root = _moved(root, path, target)
    return root, problems


def _unwrapped(root: Entry, file: str | None) -> tuple[Entry, list[Problem]]:
    """Sections inside one key: `strategy: {cluster: …, model: …}`."""
    entries = _entries(root)
    if _REQUIRED & set(entries):
        return root, []
    for key, entry in entries.items():
        inner = _entries(entry)
        if len(_REQUIRED & set(inner)) > 1:
            others = {name: other for name, other in entries.items() if name != key and name not in inner}
            problem = Problem(
                code="SW128",
                path=key,
                line=entry.line,
                found=f"the sections ({', '.join(sorted(_REQUIRED & set(inner)))}) are inside this key",
                expected="sections at the top level",
                fix=f"remove the line `{key}:`, and indent the lines below it one level less",
                file=file,
            )
            return replace(root, value=Mapping(entries={**others, **inner})), [problem]
    return root, []


def _to_their_sections(root: Entry) -> dict[Path, Path]:
    """Keys of the top level that have one place only, in a section: by name, or dotted as in an override."""
    entries = _entries(root)
    paths = frozenset(list_paths())
    moves: dict[Path, Path] = {}
    for key, entry in entries.items():
        here = key if "." in key else own_tails().get(key, key)
        is_misplaced = "." in key or (key not in paths and _has_one_place(key, here, entry))
        if is_misplaced and here in paths and "." in here and not _has(root, tuple(here.split("."))):
            moves[(key,)] = tuple(here.split("."))
        for inner in _entries(entry):
            target = (key, *inner.split("."))
            if "." in inner and ".".join(target) in paths and not _has(root, target):
                moves[key, inner] = target  # training: {optimizer.eps: 1e-8}
    are_dotted = any("." in path[-1] for path in moves)
    return moves if len(moves) >= _FEW or are_dotted else {}


def _has_one_place(key: str, here: str, entry: Entry) -> bool:
    """Whether a key by name is meant: other programs have none of that name (bf16), and its value fits."""
    target = tuple(here.split("."))
    if len(target) != 2 or find_foreign((key,)) is not None:
        return False
    section, written = find_section(target), set(_entries(entry))
    return not written or (section is not None and bool(written & set(section.written_keys())))


def _in_lower_case(root: Entry) -> dict[Path, Path]:
    """Keys such as numHiddenLayers, NUM_HIDDEN_LAYERS and num-hidden-layers."""
    moves = dict(_respelled(root, ()))
    return moves if len(moves) >= _FEW else {}


def _respelled(place: Entry, path: Path) -> MappingOf[Path, Path]:
    section, entries = find_section(path), _entries(place)
    found: dict[Path, Path] = {}
    if section is None or is_list(path):
        return found
    keys = section.written_keys()
    for key, entry in entries.items():
        plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|-", "_", key).lower()
        if key not in keys and plain in keys and plain not in entries:
            found |= {(*path, key): (*path, plain)}
        elif key in keys:
            found |= _respelled(entry, (*path, key))
    return found


def _problem(root: Entry, why: str, moves: MappingOf[Path, Path], file: str | None) -> Problem:
    first = _at(root, next(iter(moves)))
    names = [".".join(path) for path in moves]
    return Problem(
        code="SW128",
        line=None if first is None else first.line,
        found=f"{len(moves)} {why}: {shorten(', '.join(names), 120)}"
        if why == _LEVEL
        else f"{why}, but {len(moves)} are not: {shorten(', '.join(names), 120)}",
        expected="each key in its section, by the name that docs/strategy.md has",
        fix=f"move into their sections: {_written(root, moves)}"
        if why == _LEVEL
        else f"write {_written(root, moves)} instead of {', '.join(names)}",
        file=file,
    )


def _written(root: Entry, moves: MappingOf[Path, Path]) -> str:
    """The keys in their sections; by name alone where only the spelling changes."""
    if all(len(path) == len(target) for path, target in moves.items()):
        return ", ".join(".".join(target) for target in moves.values())
    sections: dict[str, Any] = {}
    for path, target in moves.items():
        entry = _at(root, path)
        place = sections
        for name in target[:-1]:
            place = place.setdefault(name, {})
        place[target[-1]] = None if entry is None else entry.plain()
    return ", ".join(f"{name}: {flow_yaml(section)}" for name, section in sections.items())


def _entries(place: Entry | None) -> MappingOf[str, Entry]:
    return place.value.entries if place is not None and isinstance(place.value, Mapping) else {}


def _at(place: Entry, path: Path) -> Entry | None:
    found: Entry | None = place
    for key in path:
        found = _entries(found).get(key)
    return found


def _has(root: Entry, path: Path) -> bool:
    """Whether a key is written, or a section above it is something else."""
    place: Entry | None = root
    for key in path:
        if place is not None and place.value is not None and not isinstance(place.value, Mapping):
            return True
        place = _entries(place).get(key)
    return place is not None


def _moved(root: Entry, path: Path, target: Path) -> Entry:
    entry = _at(root, path)
    assert entry is not None
    return _put(_without(root, path), target, entry)


def _without(place: Entry, path: Path) -> Entry:
    entries = dict(_entries(place))
    key, *rest = path
    if rest:
        entries[key] = _without(entries[key], tuple(rest))
    else:
        del entries[key]
    return replace(place, value=Mapping(entries=entries))


def _put(place: Entry, path: Path, value: Entry) -> Entry:
    if not path:
        return value
    entries = dict(_entries(place))
    entries[path[0]] = _put(entries.get(path[0], Entry(value=None, line=value.line)), path[1:], value)
    return replace(place, value=Mapping(entries=entries))
