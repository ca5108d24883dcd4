"""Claims section of a strategy: figures that a document states, compared by `audit` with derived values."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializationInfo, ValidationInfo, WithJsonSchema, field_validator

from planner.strategy.claim_quantities import CLAIM_QUANTITIES, OLD_QUANTITIES, dimension_of
from planner.strategy.field_types import Section, Text, is_text, make_error, show
from planner.units import EXAMPLES, Dimension, QuantityError, format_quantity, legal_units, parse_quantity


class Claim(Section):
    """A figure that a document states, compared by `audit` with the derived value."""

    quantity: Literal[tuple(CLAIM_QUANTITIES) + OLD_QUANTITIES] = Field(  # type: ignore[valid-type]
        description="the stated quantity", examples=["forward_latency"]
    )
    value: Annotated[int | float, WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]})] = (
        Field(description="with a unit of the quantity", examples=["12.5 ms"])
    )
    where: Text = Field(description="place in the document", examples=["Latency Analysis"])
    changes: dict[str, Any] = Field(
        default_factory=dict,
        alias="with",
        description="overrides of the strategy, by dotted key: the claim is about the plan so changed",
        examples=["{training.global_batch: 256}"],
    )
    relation: Literal["equals", "at_most", "at_least", "below"] | None = Field(
        default=None, description="of the derived value to the stated one; null: the quantity's own"
    )

    @property
    def dimension(self) -> Dimension:
        found = dimension_of(self.quantity)
        assert found is not None, self.quantity
        return found

    @field_validator("value", mode="before")
    @classmethod
    def _parse_value(cls, value: Any, info: ValidationInfo) -> Any:
        dimension = dimension_of(info.data.get("quantity", ""))
        if dimension is None:
            return 0  # the quantity is wrong, so its value cannot be checked
        expected = f"a number with a unit ({legal_units(dimension)}), for example {EXAMPLES[dimension]}"
        if dimension == "count":
            expected = f"a number, for example {EXAMPLES[dimension]}"
        if isinstance(value, str):
            try:
                return parse_quantity(value, dimension)
            except QuantityError as error:
                raise make_error("SW116", str(error), expected) from None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise make_error("SW116", f"{show(value)} is not a quantity", expected)
        if is_text(info) and dimension not in ("count", "share", "parameters"):
            raise make_error("SW116", f"{value!r} has no unit", expected)
        return value


def write_claims(claims: tuple[Claim, ...], info: SerializationInfo) -> Any:
    """Claims as plain data; in text, values with their units."""

    def value(claim: Claim) -> Any:
        if not is_text(info) or claim.dimension == "count":
            return claim.value
        return format_quantity(claim.value, claim.dimension)

    def written(claim: Claim) -> dict[str, Any]:
        found = {"quantity": claim.quantity, "value": value(claim), "where": claim.where}
        more = {"with": claim.changes, "relation": claim.relation}
        return found | {key: item for key, item in more.items() if item}

    return [written(claim) for claim in claims]
