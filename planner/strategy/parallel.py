"""Parallel section of a strategy: degrees, placement, and the short name that writes them."""

import re
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from planner.strategy.field_types import NotNegative, Positive, Section, make_error
from planner.units import shorten


def _parse_cut(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Parallel(Section):
    """Parallel degrees and placement; also written as a short name (EP64_TP2_PP1_DP1)."""

    placement: Literal["colocated", "staged"] = Field(
        default="colocated", description="staged: embedding, experts and output on separate ranks"
    )
    ep: Positive = Field(default=1, description="expert parallel degree")
    tp: Positive = Field(default=1, description="tensor parallel degree")
    pp: Positive = Field(default=1, description="pipeline parallel degree")
    dp: Positive = Field(default=1, description="data parallel degree: replicas of the model")
    layers_per_stage: Annotated[tuple[Positive, ...] | None, BeforeValidator(_parse_cut)] = Field(
        default=None,
        description="layers of each of the pp stages, in order; null: as even as possible, the first stages "
        "one more",
    )
    zero_stage: NotNegative = Field(
        default=1,
        json_schema_extra={"enum": [0, 1, 2]},
        description="partitioned by DeepSpeed: 0 nothing, 1 optimizer state, 2 also gradients",
    )
    rank_order: Literal["document", "compact"] = Field(
        default="document", description="staged only: compact numbers the expert stages first"
    )

    @property
    def short_name(self) -> str:
        return f"EP{self.ep}_TP{self.tp}_PP{self.pp}_DP{self.dp}"

    @property
    def layout_name(self) -> str:
        """The short name, and behind it how the layers are cut where that is written: 13+13+13+9, 31×2+1."""
        if self.layers_per_stage is None:
            return self.short_name
        parts: list[str] = []
        for count, run in groupby(self.layers_per_stage):
            number = len(list(run))
            parts += [f"{number}×{count}"] if number > 3 else [str(count)] * number
        return f"{self.short_name} {'+'.join(parts)}"


_DEGREE = r"(EP|TP|PP|DP)[1-9]\d{0,8}"
SHORT_NAME_PATTERN = rf"^(?!.*(EP|TP|PP|DP).*\1){_DEGREE}(_{_DEGREE})*$"


def parse_short_name(text: str) -> dict[str, int]:
    """The degrees in a short name; those left out are 1.

    Raises:
        ValueError: if the text is not a short name.
    """
    degrees: dict[str, int] = {}
    for part in text.split("_"):
        match = re.fullmatch(r"(EP|TP|PP|DP)([1-9]\d{0,8})", part)
        if match is None or match.group(1).lower() in degrees:
            raise ValueError(f"{shorten(text)!r} is not a short name")
        degrees[match.group(1).lower()] = int(match.group(2))
    return degrees


def degrees_of(value: Any) -> dict[str, int] | None:
    """The degrees of a short name; None for any other value, which is reported where it is written."""
    try:
        return parse_short_name(value) if isinstance(value, str) else None
    except ValueError:
        return None


def parse_parallel(value: Any) -> Any:
    """What a short name stands for; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_short_name(value)
    except ValueError as error:
        raise make_error(
            "SW137", str(error), "EP, TP, PP and DP with their degrees, for example EP64_TP2_PP1_DP1"
        ) from None
