"""Corpora that a strategy names: paths, and the parts of a mixture with their weights."""

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
    return items if isinstance(value, list) else value


Paths = Annotated[Path | tuple[Path, ...] | None, BeforeValidator(_parse_paths)]


class MixPart(Section):
    """A corpus of `data.mix`, and its share of the training sequences."""

    path: Paths = Field(
        description="as data.path: file, folder or glob, or a list of them", examples=["texts/code"]
    )
    weight: PositiveNumber = Field(
        description="share of the sequences, divided by the sum of the weights", examples=[0.3]
    )
