"""Trial of a value: whether a key of a strategy would take it, before a fix proposes it."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from planner.hardware.catalog import known_devices
from planner.hardware.presets import known_links
from planner.rules.partial import STAND_IN
from planner.strategy.field_types import AS_TEXT
from planner.strategy.schema import Strategy


def is_legal(path: Sequence[str | int], value: Any) -> bool:
    """Whether a strategy that is otherwise legal takes the value at the path, as far as its form goes."""
    tried: Any = deepcopy(STAND_IN)
    place = tried
    for key in path[:-1]:
        if not isinstance(place.get(key), dict):
            place[key] = {}
        place = place[key]
    place[path[-1]] = _with_tuples(value)
    try:
        Strategy.model_validate(
            tried, context={**AS_TEXT, "devices": known_devices(), "links": known_links()}
        )
    except ValidationError as error:
        return not any(_is_about(details["loc"], path) for details in error.errors(include_url=False))
    return True


def is_legal_in(data: Mapping[str, Any], path: Sequence[str | int], value: Any) -> bool:
    """The same for a path that may lead into a list of the document: the item, in its list."""
    first = next((place for place, key in enumerate(path) if isinstance(key, int)), None)
    if first is None:
        return is_legal(path, value)
    items: Any = data
    for key in path[:first]:
        items = items[key]
    place = path[first]
    changed = [
        _replaced(item, path[first + 1 :], value) if i == place else item for i, item in enumerate(items)
    ]
    one = [changed[int(place)]]  # the other items may be wrong
    return is_legal(path[:first], changed) or is_legal(path[:first], one)


def _with_tuples(value: Any) -> Any:
    """Lists as a document holds them."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, (list, tuple)) else value


def _replaced(item: Any, path: Sequence[str | int], value: Any) -> Any:
    if not path:
        return value
    return (
        {**item, path[0]: _replaced(item.get(path[0]), path[1:], value)} if isinstance(item, dict) else item
    )


def _is_about(loc: Sequence[str | int], path: Sequence[str | int]) -> bool:
    """Whether an error is at the path, below it, or of a section on the way to it."""
    length = min(len(loc), len(path))
    return tuple(loc[:length]) == tuple(path[:length])
