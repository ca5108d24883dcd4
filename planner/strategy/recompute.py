"""Activation recomputation of a strategy: which part of which layers backward computes a second time."""

from dataclasses import dataclass
from typing import Any, Literal

from planner.strategy.field_types import LARGEST, make_error, show
from planner.units import shorten

RecomputeKind = Literal["none", "layer", "attention", "experts"]
_KINDS: tuple[RecomputeKind, ...] = ("none", "layer", "attention", "experts")
_EXPECTED = "none, layer, attention, experts, or {layers: N}"

RECOMPUTE_SCHEMA = {
    "anyOf": [
        {"type": "string", "enum": list(_KINDS)},
        {
            "type": "object",
            "properties": {"layers": {"type": "integer", "minimum": 1, "maximum": LARGEST}},
            "required": ["layers"],
            "additionalProperties": False,
        },
    ]
}


@dataclass(frozen=True)
class Recompute:
    """What of a layer is recomputed; with `layers` only of so many first layers of each stage, as `layer`.

    layer: keeps its input. attention: the block with its norm keeps its input. experts: between dispatch and
    combine, without communication; the rows that arrived are kept.
    """

    kind: RecomputeKind = "none"
    layers: int | None = None

    def split(self, num_dense: int, num_moe: int) -> tuple[tuple[int, int, RecomputeKind], ...]:
        """Dense and MoE layers of a stage by what is recomputed of them, in the order of the stage."""
        if self.layers is None:
            return ((num_dense, num_moe, self.kind),)
        dense = min(self.layers, num_dense)
        moe = min(self.layers - dense, num_moe)
        parts: tuple[tuple[int, int, RecomputeKind], ...] = (
            (dense, moe, self.kind),
            (num_dense - dense, num_moe - moe, "none"),
        )
        return tuple(part for part in parts if part[0] + part[1])

    def written(self) -> str | dict[str, int]:
        """As `parse_recompute` reads it."""
        return self.kind if self.layers is None else {"layers": self.layers}

    def __str__(self) -> str:
        return self.kind if self.layers is None else f"{{layers: {self.layers}}}"


def parse_recompute(value: Any) -> Any:
    """The value of runtime.recompute as Recompute.

    Raises:
        PydanticCustomError: for anything else.
    """
    if isinstance(value, Recompute):
        return value
    if isinstance(value, str) and value in _KINDS:
        return Recompute(value)
    if isinstance(value, dict) and set(value) == {"layers"}:
        layers = value["layers"]
        if isinstance(layers, int) and not isinstance(layers, bool) and 1 <= layers <= LARGEST:
            return Recompute("layer", layers)
        raise make_error(
            "SW139",
            f"{show(layers)} layers",
            f"1 or more layers of each stage; {_EXPECTED}",
            meant={"layers": 4},
        )
    found = (
        f"unknown value {shorten(value)!r}" if isinstance(value, str) else f"{show(value)} is not a choice"
    )
    raise make_error("SW139", found, _EXPECTED)
