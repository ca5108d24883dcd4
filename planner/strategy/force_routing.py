"""Forced routing of a strategy (runtime.force_routing): experts chosen by a rule instead of by the router."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializationInfo

from planner.strategy.field_types import Positive, Section, make_error, show
from planner.units import shorten

RoutingKind = Literal[
    "balanced", "hot_expert", "hot_rank", "spread", "ragged", "empty_rank", "rotating", "burst"
]
# Kinds that favor some experts, for so many of the tokens as `share` says.
SHARED_KINDS = frozenset({"hot_expert", "hot_rank", "rotating", "burst"})
# Kinds that are named by the ranks of an EP group.
RANK_KINDS = frozenset({"hot_rank", "spread", "empty_rank"})


class ForceRouting(Section):
    """Experts chosen by a rule instead of by the router, for benchmarks and rehearsals; or none."""

    kind: RoutingKind = Field(
        default="balanced",
        description="which tokens have which experts: see [forced routing](how-to/forced-routing.md)",
    )
    share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="tokens of the global batch that have a favored expert; for hot_expert, hot_rank, "
        "rotating and burst",
    )
    ep: Positive | None = Field(
        default=None,
        description="expert parallel degree that hot_rank, spread and empty_rank mean; null: parallel.ep",
    )

    @property
    def written(self) -> str:
        """On one line, as in a strategy."""
        values = (("kind", self.kind), ("share", self.share), ("ep", self.ep))
        return "{" + ", ".join(f"{key}: {value}" for key, value in values if value is not None) + "}"

    def __str__(self) -> str:
        return self.written


def parse_force_routing(value: Any) -> Any:
    """`none` as None.

    Raises:
        PydanticCustomError: for what is neither none nor a mapping.
    """
    if value is None or value == "none":
        return None
    if isinstance(value, (dict, ForceRouting)):
        return value
    found = (
        f"unknown value {shorten(value)!r}" if isinstance(value, str) else f"{show(value)} is not a routing"
    )
    meant = _meant(value)
    raise make_error(
        "SW140", found, "none, or {kind: KIND, share: SHARE}, for example {kind: balanced}", meant=meant
    )


def _meant(value: Any) -> dict[str, Any]:
    kind = str(value)
    if kind in SHARED_KINDS:
        return {"kind": kind, "share": 0.3}
    is_known = kind in RANK_KINDS or kind == "ragged"
    return {"kind": kind if is_known else "balanced"}


def write_force_routing(value: ForceRouting | None, info: SerializationInfo) -> Any:
    """As `parse_force_routing` reads it."""
    return "none" if value is None else value.model_dump(context=info.context, exclude_none=True)
