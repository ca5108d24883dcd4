"""Absolute paths of a strategy: relative ones start at the working directory of the command that reads it."""

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from planner.strategy.field_types import PATH_MARK
from planner.strategy.schema import Strategy

_RESUME_WORDS = ("auto", "never", "require")  # of output.resume, which else is a path


def anchor_paths(strategy: Strategy, folder: Path) -> Strategy:
    """The strategy with every relative path of it made absolute, for processes that run elsewhere."""
    anchored: Strategy = _anchor(strategy, folder)
    return anchored


def _anchor(section: Any, folder: Path) -> Any:
    changes: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if _is_path(field):
            changes[name] = _absolute(name, value, folder)
        elif isinstance(value, BaseModel):
            changes[name] = _anchor(value, folder)
        elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
            changes[name] = tuple(_anchor(item, folder) for item in value)
    changes = {name: value for name, value in changes.items() if value != getattr(section, name)}
    return section.model_copy(update=changes) if changes else section


def _is_path(field: FieldInfo) -> bool:
    return PATH_MARK in field.metadata or _mentions_path(field.annotation)


def _mentions_path(annotation: Any) -> bool:
    parts = get_args(annotation)
    return PATH_MARK in parts or any(_mentions_path(part) for part in parts)


def _absolute(name: str, value: Any, folder: Path) -> Any:
    if isinstance(value, tuple):
        return tuple(_absolute(name, item, folder) for item in value)
    is_word = (name == "resume" and value in _RESUME_WORDS) or (
        name == "python" and isinstance(value, str) and "/" not in value  # looked up in PATH
    )
    return value if value is None or is_word else str(folder / value)
