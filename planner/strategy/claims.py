"""Claims section of a strategy: figures that a document states, compared by `audit` with derived values."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializationInfo, ValidationInfo, WithJsonSchema, field_validator

from planner.strategy.claim_quantities import CLAIM_QUANTITIES
from planner.strategy.field_types import Section, Text, is_text, make_error, show
from planner.units import EXAMPLES, QuantityError, format_quantity, legal_units, parse_quantity


class Claim(Section):
    """A figure that a document states, compared by `audit` with the derived value."""

    quantity: Literal[tuple(CLAIM_QUANTITIES)] = Field(  # type: ignore[valid-type]
        description="the stated quantity", examples=["forward_latency"]
    )
    value: Annotated[int | float, WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]})] = (
        Field(description="with a unit of the quantity", examples=["12.5 ms"])
    )
    where: Text = Field(description="place in the document", examples=["Latency Analysis"])

    @field_validator("value", mode="before")
    @classmethod
    def _parse_value(cls, value: Any, info: ValidationInfo) -> Any:
        dimension = CLAIM_QUANTITIES.get(info.data.get("quantity", ""))
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
        if is_text(info) and dimension not in ("count", "share"):
            raise make_error("SW116", f"{value!r} has no unit", expected, f"write {value!r} with its unit")
        return value


def write_claims(claims: tuple[Claim, ...], info: SerializationInfo) -> Any:
    """Claims as plain data; in text, values with their units."""

    def value(claim: Claim) -> Any:
        if not is_text(info) or CLAIM_QUANTITIES[claim.quantity] == "count":
            return claim.value
        return format_quantity(claim.value, CLAIM_QUANTITIES[claim.quantity])

    return [{"quantity": c.quantity, "value": value(c), "where": c.where} for c in claims]
