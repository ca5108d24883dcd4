"""Fixes of wrong values, made from what was found: the number without its quotes, the unit that is meant."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from planner.loading.entry_spellings import as_entries
from planner.loading.foreign_names import foreign_names
from planner.loading.json_schema import field_schema
from planner.loading.key_spellings import candidates_of_key, share_of_memory
from planner.loading.number_spellings import Thousand, read_numbers
from planner.loading.off_spellings import switched_off
from planner.loading.shares import share_of_another
from planner.loading.trial import is_legal_in
from planner.loading.unit_spellings import suggest_quantity
from planner.strategy.claim_quantities import CLAIM_QUANTITIES
from planner.strategy.mix_spellings import as_mix, explain_mix, find_parts
from planner.units import NAMED_COUNTS, UNITS, Dimension, quantity_pattern

# Tokens and parameters are written alike; the keys of a strategy are tokens.
_DIMENSIONS = {quantity_pattern(dimension): dimension for dimension in reversed(UNITS)}
# keys of which k is not always 1000
_THOUSANDS: Mapping[str, Thousand] = {
    **dict.fromkeys(("seq_length", "hidden_size", "moe_intermediate_size", "intermediate_size"), "1024"),
    "vocab_size": "either",
}
_TOKENS = {"seq_length", "vocab_size"}
_SWITCHES = {
    **dict.fromkeys(("yes", "on", "true", "1"), True),
    **dict.fromkeys(("no", "off", "false", "0"), False),
}


@dataclass(frozen=True)
class Proposal:
    """A legal value and what is said behind it."""

    value: Any
    hint: str = ""


def propose_value(path: Sequence[str | int], value: Any, data: Mapping[str, Any]) -> Proposal | None:
    """The legal value that seems to be meant; None where nothing that was found says so."""
    return next(
        (found for found in _candidates(path, value, data) if is_legal_in(data, path, found.value)), None
    )


def _candidates(path: Sequence[str | int], value: Any, data: Mapping[str, Any]) -> Iterator[Proposal]:
    dimension = _dimension(path, data)
    yield from (Proposal(*found) for found in share_of_memory(path, value, data))
    if dimension is not None and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        suggested = suggest_quantity(value, dimension, str(path[-1]))
        if suggested is not None:
            is_count = dimension in NAMED_COUNTS and suggested.text[-1:].isdigit()
            quantity = int(Fraction(suggested.text)) if is_count else suggested.text
            yield Proposal(quantity, suggested.hint and f", {suggested.hint}")
    yield from (Proposal(*found) for found in switched_off(path, value, data))
    if (shared := share_of_another(path, value, data)) is not None:
        yield Proposal(*shared)
    yield from (Proposal(*found) for found in candidates_of_key(path, value, data))
    if tuple(path) == ("data", "mix") and (parts := find_parts(value)):
        yield Proposal(as_mix(parts), explain_mix(parts))
    yield from (Proposal(found) for found in as_entries(path, value))
    if isinstance(value, str):
        if tuple(path) == ("parallel",):
            yield from _short_name(value)
        if tuple(path) == ("name",):
            yield Proposal(re.sub(r"[^A-Za-z0-9_-]+", "-", value).strip("-_")[:100])
        yield from _of_text(path, value)
    elif isinstance(value, bool):
        yield from (Proposal(word) for word in _other_words(path, str(value).lower()))
    elif isinstance(value, (int, float)):
        yield from _of_number(path, value)
    elif isinstance(value, (tuple, list)) and len(value) == 1:
        yield Proposal(value[0])
    if not isinstance(value, (tuple, list, dict)) and value is not None:
        yield Proposal([value])


def _short_name(text: str) -> Iterator[Proposal]:
    """Degrees in another spelling: ep4_tp2, EP=4, TP=2, EP4xTP2."""
    text = text.strip("“”‘’«»„'\" ")
    found: dict[str, str] = {}
    rest = text
    for match in re.finditer(r"(?i)(EP|TP|PP|DP)\s*[=:_-]?\s*0*([1-9]\d{0,8})", text):
        if found.setdefault(match.group(1).upper(), match.group(2)) == match.group(2):
            rest = rest.replace(match.group(0), " ", 1)
    left = re.sub(r"(?<![A-Za-z])[xX](?![A-Za-z])|[\s,_*+;-]+", " ", rest).strip()
    if found:
        hint = f", without {left}, which is not a degree of its own" if left else ""
        yield Proposal("_".join(f"{name}{degree}" for name, degree in found.items()), hint)


def _of_text(path: Sequence[str | int], text: str) -> Iterator[Proposal]:
    plain = text.strip().strip("'\"")
    if plain.lower() in _SWITCHES and "boolean" in _types(path):
        is_yaml11 = text.lower() in ("yes", "no", "on", "off")
        yield Proposal(_SWITCHES[plain.lower()], f": YAML 1.2 reads {text} as text" if is_yaml11 else "")
    if "array" in _types(path) and (numbers := _numbers(plain)) is not None:
        yield Proposal(numbers)
    last = str(path[-1])
    yield from (
        Proposal(int(number) if number == int(number) else number, hint)
        for number, hint in read_numbers(
            text, thousand=_THOUSANDS.get(last, "1000"), takes_tokens=last in _TOKENS
        )
    )
    if plain.endswith("%"):
        yield from (
            Proposal(float(f"{number / 100:.6g}"), hint)
            for number, hint in read_numbers(plain.removesuffix("%"))
        )
    yield from (Proposal(word) for word in _other_words(path, text))
    if "," in text or " " in text.strip():
        yield Proposal([part for part in text.replace(",", " ").split() if part])


def _numbers(text: str) -> list[float] | None:
    """A list of numbers as text: (0.9, 0.95), 0.9 0.95."""
    parts = [part for part in re.split(r"[,;\s]+", text.strip("()[]{} ")) if part]
    found = [next((number for number, _ in read_numbers(part)), None) for part in parts]
    numbers = [number for number in found if number is not None]
    return numbers if len(numbers) == len(parts) > 1 else None


def _of_number(path: Sequence[str | int], number: float) -> Iterator[Proposal]:
    if number != number or abs(number) == float("inf"):
        return
    schema = field_schema(path) or {}
    branches = (schema, *schema.get("anyOf", ()))
    is_share = path[-1] != "learning_rate"
    if (
        is_share
        and 1 < number <= 100
        and any(b.get("maximum", b.get("exclusiveMaximum")) == 1 for b in branches)
    ):
        yield Proposal(float(f"{number / 100:.6g}"), f", which is {number:g} %")
    if isinstance(number, float) and re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", repr(number)):
        yield Proposal(round(number * 1000), f", or {round(number)} where {number:g} is meant")
    if isinstance(number, float):
        yield Proposal(-number)
        yield Proposal(round(number))
    most = max((branch.get("maximum", 0) for branch in schema.get("anyOf", [schema])), default=0)
    if most and number > most:
        yield Proposal(most, ", the largest")
    yield Proposal(str(number))


def _other_words(path: Sequence[str | int], word: str) -> Iterator[Any]:
    """The words here of those that other programs use for the key: bfloat16, full."""
    dotted = ".".join(map(str, path))
    for entry in foreign_names().values():
        if entry.keys == (dotted,) and entry.note:
            found = entry.convert(word, lambda _: None)
            if dotted in found.writes:
                yield found.writes[dotted]


def _types(path: Sequence[str | int]) -> set[str]:
    schema = field_schema(path) or {}
    kinds = (branch.get("type") for branch in schema.get("anyOf", [schema]))
    return {kind for kind in kinds if isinstance(kind, str)}


def _dimension(path: Sequence[str | int], data: Mapping[str, Any]) -> Dimension | None:
    """The dimension of a key that is a quantity."""
    if [key for key in path if isinstance(key, str)] == ["claims", "value"]:
        item: Any = data
        for key in path[:-1]:
            item = item[key]
        found = CLAIM_QUANTITIES.get(str(item.get("quantity"))) if isinstance(item, dict) else None
        return None if found in ("count", "share") else found
    schema = field_schema(path) or {}
    patterns = (branch.get("pattern", "") for branch in schema.get("anyOf", [schema]))
    return next((_DIMENSIONS[pattern] for pattern in patterns if pattern in _DIMENSIONS), None)
