"""Copies of a strategy with some keys changed; the values are validated, the rules are left to build_plan."""

from collections.abc import Mapping
from typing import TypeVar

from planner.strategy.field_types import Section
from planner.strategy.schema import Strategy

_AnySection = TypeVar("_AnySection", bound=Section)


def change_keys(strategy: Strategy, changes: Mapping[str, object]) -> Strategy:
    """The strategy with new values for some dotted keys, as in {"parallel.tp": 2}.

    Defaults that follow from a changed key (`head_dim`) follow again. Quantities are numbers in base units.

    Raises:
        pydantic.ValidationError: if a key or its value is not legal.
    """
    sections = {name: _change(getattr(strategy, name), keys) for name, keys in _group(changes).items()}
    return strategy.model_copy(update=sections)


def change_parallel(strategy: Strategy, changes: Mapping[str, object]) -> Strategy:
    """The strategy with other keys of `parallel`; a cut of the layers is kept only where pp stays."""
    new = {f"parallel.{key}": value for key, value in changes.items()}
    if changes.get("pp", strategy.parallel.pp) != strategy.parallel.pp:
        new["parallel.layers_per_stage"] = None
    return change_keys(strategy, new)


def _change(section: _AnySection, changes: Mapping[str, object]) -> _AnySection:
    values: dict[str, object] = {name: getattr(section, name) for name in section.model_fields_set}
    values |= {path: value for path, value in changes.items() if "." not in path}
    inner = _group({path: value for path, value in changes.items() if "." in path})
    values |= {name: _change(getattr(section, name), keys) for name, keys in inner.items()}
    return type(section).model_validate(values)


def _group(changes: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Changes by the first part of their path."""
    sections: dict[str, dict[str, object]] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        sections.setdefault(name, {})[rest] = value
    return sections
