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
    sections: dict[str, dict[str, object]] = {}
    for path, value in changes.items():
        name, _, key = path.partition(".")
        sections.setdefault(name, {})[key] = value
    copies = {name: _change(getattr(strategy, name), keys) for name, keys in sections.items()}
    return strategy.model_copy(update=copies)


def _change(section: _AnySection, changes: Mapping[str, object]) -> _AnySection:
    written: dict[str, object] = {name: getattr(section, name) for name in section.model_fields_set}
    for path, value in changes.items():
        name, _, key = path.partition(".")
        written[name] = _change(getattr(section, name), {key: value}) if key else value
    return type(section).model_validate(written)
