"""Corpora that a strategy names: paths, and the parts of a mixture with their weights."""

from pathlib import Path as FilePath
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from planner.strategy.field_types import (
    Path,
    PositiveNumber,
    Section,
    check_path,
    expand_path,
    make_error,
    show,
)
from planner.strategy.mix_spellings import find_parts, has_weights


def _parse_paths(value: Any) -> Any:
    items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for place, item in enumerate(items, start=1):
        if item == "" and isinstance(value, (list, tuple)):
            kept = [path for path in items if path != ""]
            raise make_error(
                "SW117", f"item {place} of the list is empty", "paths, or null", meant=kept or ["texts"]
            )
        if item == "":
            fix = "write the path, or null for the sources of Python's standard library"
            raise make_error("SW117", "an empty text", "a path, a list of paths, or null", fix)
        if not isinstance(item, str) and value is not None:
            raise make_error("SW113", f"{show(item)} is not a path", "a path, a list of paths, or null")
        if isinstance(item, str):
            check_path(expand_path(item))
    _check_no_weights(value)
    return items if isinstance(value, list) else value


def _check_no_weights(value: Any) -> None:
    """A blend as Megatron-LM writes one, `0.7 a 0.3 b`, is not a path, unless a file has that name."""
    parts = find_parts(value)
    if parts is None or len(parts) < 2 or not has_weights(parts):
        return
    items = value if isinstance(value, (list, tuple)) else (value,)
    has_spaces = len(parts) == len(items)  # [2023 news, 2024 news] are folders, [0.7 news, 0.3 code] are not
    if has_spaces and not any(weight is not None and weight != int(weight) for _, weight in parts):
        return
    if not any(_exists(item) for item in items):
        raise make_error(
            "SW117", f"{show(value)} has weights", "a path, a list of paths, or null; data.mix has weights"
        )


def _exists(item: Any) -> bool:
    try:
        return isinstance(item, str) and FilePath(expand_path(item)).exists()
    except (OSError, ValueError):
        return False


Paths = Annotated[Path | tuple[Path, ...] | None, BeforeValidator(_parse_paths)]


class MixPart(Section):
    """A corpus of `data.mix`, and its share of the training sequences."""

    path: Paths = Field(
        description="as data.path: file, folder or glob, or a list of them", examples=["texts/code"]
    )
    weight: PositiveNumber = Field(
        description="share of the sequences, divided by the sum of the weights", examples=[0.3]
    )
