"""Fixes that are followed together: each is made from the values that the others of the same answer write."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, get_args

from planner.loading.fault import Fault, Path, dotted
from planner.loading.foreign_names import find_foreign
from planner.loading.refused_keys import find_refusal
from planner.loading.shares import OF_STEPS
from planner.problems import Problem
from planner.strategy.field_types import Section
from planner.strategy.parallel import degrees_of
from planner.strategy.schema import Strategy
from planner.yaml12_scalars import resolve_scalar

MAX_JOINT = 12  # faults whose fixes are made twice; a file with more is mended in several rounds anyway
_VALUE = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?|null|true|false|[a-z]\w*)"
_SET = re.compile(rf"(?:set|write) ((?:[a-z_]+\.)+[a-z_]+)(?: to |: ){_VALUE}(?:,|$)")
# Keys that are written as a share, a number of tokens or a generation of another key's.
_SHARES = {
    *("training.min_learning_rate", "training.global_batch", "limits.memory_max"),
    *("cluster.links.intra_host", "cluster.links.inter_host"),
}
_WORDS: Mapping[str, Any] = {"null": None, "true": True, "false": False}


def made_together(
    faults: Mapping[Path, Fault], data: Mapping[str, Any], again: Callable[[Path, dict[str, Any]], Fault]
) -> dict[Path, Fault]:
    """The faults, each fix made again by `again` from the document as the others mend it.

    Of two fixes that write the same key the first one does, and the second one sees it written.
    """
    writing = [path for path, fault in faults.items() if fault.writes]
    if not writing or not 1 < len(faults) <= MAX_JOINT:
        return dict(faults)
    found = dict(faults)
    for place, (path, fault) in enumerate(faults.items()):
        if not _looks_elsewhere(fault) and not any(
            set(fault.writes) & set(other.writes) for other in faults.values() if other is not fault
        ):
            continue
        mended = deepcopy(dict(data))
        for other_place, (other_path, other) in enumerate(faults.items()):
            if other_path == path or other_path[: len(path)] == path or path[: len(other_path)] == other_path:
                continue
            for key, value in other.writes.items():
                if other_place < place or key not in fault.writes:
                    _put(mended, key.split("."), value)
        if not _exists(mended, path):
            continue
        remade = again(path, mended)
        # The document as it is says what was found; a fault that is gone under the others' fixes is kept.
        if remade.path == path and remade.code == fault.code:
            found[path] = replace(remade, found=fault.found, expected=fault.expected)
    return found


def _looks_elsewhere(fault: Fault) -> bool:
    """Whether a fix may be made from the values of other keys."""
    entry = find_foreign(fault.path)
    refusal = find_refusal(str(fault.path[-1]))
    return (
        isinstance(fault.value, dict)  # a section of another program
        or (entry is not None and (bool(entry.note) or not entry.keys))
        or (refusal is not None and bool(refusal.instead))
        or dotted(fault.path) in _SHARES | OF_STEPS
    )


def set_keys(problem: Problem) -> tuple[str, ...] | None:
    """The key that a rule's fix sets to one value; None where it does something else."""
    match = _SET.match(problem.fix)
    return None if match is None else tuple(match[1].split("."))


def with_fixes(strategy: Strategy, problems: Iterable[Problem]) -> Strategy | None:
    """The strategy after the fixes that set a key to one value; None where none does."""
    mended = strategy
    for problem in problems:
        match = _SET.match(problem.fix)
        if match is not None:
            mended = _changed(mended, match[1].split("."), match[2])
    return None if mended is strategy else mended


def _changed(section: Any, keys: Sequence[str], text: str) -> Any:
    """The section with one value changed; itself where the value is not a single number or word."""
    key = keys[0]
    field = type(section).model_fields.get(key)
    if field is None:
        return section
    held = getattr(section, key)
    if len(keys) > 1:
        inner = _changed(held, keys[1:], text) if isinstance(held, Section) else held
        return section if inner is held else section.model_copy(update={key: inner})
    value = _WORDS[text] if text in _WORDS else resolve_scalar(text)
    if value is None and type(None) not in get_args(field.annotation):
        return section  # the default follows from other keys
    is_plain = held is None or isinstance(held, (bool, int, float, str))
    return section.model_copy(update={key: value}) if is_plain else section


def _exists(data: Any, path: Path) -> bool:
    for key in path[:-1]:
        is_item = isinstance(data, (list, tuple)) and isinstance(key, int) and key < len(data)
        if not is_item and not (isinstance(data, dict) and key in data):
            return False
        data = data[key]
    return True


def _put(place: Any, keys: Sequence[str], value: Any) -> None:
    """Writes a key where its section is one, or is not written."""
    for key in keys[:-1]:
        if not isinstance(place.get(key), dict):
            degrees = degrees_of(place.get(key))
            if degrees is None and place.get(key) is not None:
                return  # a mistake of its own
            place[key] = degrees or {}
        place = place[key]
    place[keys[-1]] = value
