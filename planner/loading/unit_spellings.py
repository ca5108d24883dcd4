"""Spellings of units that people write, as the units that are read: GBps, gbit/s, TFLOPs, minutes."""

import re
from dataclasses import dataclass

from planner.units import NAMED_COUNTS, UNITS, Dimension, QuantityError, parse_quantity

_NUMBER = re.compile(r"\s*\$?\s*([-+]?(?:\d[\d_,]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?)\s*(.*?)\s*")
_PREFIX = r"(?P<prefix>[kKmMgGtTpP]i?|)"


def _counts(nouns: str) -> tuple[tuple[str, str], ...]:
    """Of things that are counted: thousands, millions."""
    names = (
        ("(k|thousand)?", "k"),
        ("(m|mn|mio|million)", "M"),
        ("(b|bn|billion|g)", "B"),
        ("(t|tn|trillion)", "T"),
    )
    return tuple((rf"{pattern}\s*({nouns})?", unit) for pattern, unit in names)


# pattern of a unit -> what it is; {0} is its decimal or binary prefix
_SPELLINGS: dict[Dimension, tuple[tuple[str, str], ...]] = {
    "bytes": ((rf"{_PREFIX}(b|bytes?|o)?", "{0}B"),),
    "bytes/s": (
        # A capital B, or the word, is a byte; a small b after a prefix is ambiguous unless `ps` follows it.
        (rf"{_PREFIX}(B|[bB]ytes?)\s*(/|p|per)?\s*(s|S|sec|second)?", "{0}B/s"),
        (rf"{_PREFIX}(b|[bB]its?)\s*(/|p|P|per)\s*(s|S|sec|second)", "{0}bps"),
        (rf"{_PREFIX}([bB]its?|b?e|bE|)", "{0}bps"),  # 400 Gbit, 400GbE, 400G
    ),
    "FLOP/s": ((rf"{_PREFIX}f?(lops?|LOPS?|LOPs)?\s*(/\s*s|ps)?", "{0}FLOPS"),),
    "seconds": (
        (r"(s|secs?|seconds?)", "s"),
        (r"(ms|msecs?|milliseconds?)", "ms"),
        (r"(m|mins?|minutes?)", "min"),
        (r"(h|hrs?|hours?)", "h"),
        (r"(d|days?)", "d"),
    ),
    "tokens": _counts("tokens?"),
    "parameters": _counts("params?|parameters?"),
    "FLOP": ((rf"{_PREFIX}f?(lops?|LOPS?|LOPs)", "{0}FLOP"),),
    "$/GPU-hour": ((r"(\$|usd)?\s*(/|per)?\s*(gpu)?[-\s]*(/|per)?\s*(h|hrs?|hours?)?", "$/GPU-hour"),),
}


# what a number without a unit most often means
_USUAL: dict[Dimension, str] = {"bytes": "GB", "bytes/s": "Gbps", "FLOP/s": "TFLOPS", "seconds": "s"}
_WORDS = (("kilo", "k"), ("mega", "M"), ("giga", "G"), ("tera", "T"), ("peta", "P"))


@dataclass(frozen=True)
class Suggestion:
    """A quantity that seems to be meant; hint: what else it may be."""

    text: str
    hint: str = ""


def suggest_quantity(value: str | int | float, dimension: Dimension) -> Suggestion | None:
    """The quantity with a unit that is read; None where nothing in the text says what is meant.

    A sign is left out: no quantity of a strategy is below 0.
    """
    text = str(value)
    match = _NUMBER.fullmatch(text) if len(text) <= 64 else None
    if match is None:
        return None
    number, unit = match.group(1).replace(",", "").replace("_", "").lstrip("+-"), match.group(2)
    hint = ""
    if not unit and dimension in _USUAL:
        unit, hint = _USUAL[dimension], "or with another unit"
    elif dimension == "bytes/s" and re.fullmatch(r"[kmgt]b/s(ec)?", unit):
        letter = unit[0].upper() if unit[0] != "k" else "k"
        unit, hint = f"{letter}bps", f"or {number} {letter}B/s where bytes are meant"
    elif unit not in UNITS[dimension]:
        for word, letter in _WORDS:
            unit = re.sub(rf"(?i)^{word}", letter, unit)
        found = next((u for u in (_unit(unit, *row) for row in _SPELLINGS.get(dimension, ())) if u), None)
        if found is None:
            return None
        is_noun = re.fullmatch(r"(?i)(tokens?|params?|parameters?)?", unit) is not None
        unit = "" if dimension in NAMED_COUNTS and is_noun else found
    written = f"{number}{unit}" if dimension in NAMED_COUNTS else f"{number} {unit}".strip()
    try:
        parse_quantity(written, dimension)
    except QuantityError:
        return None
    return Suggestion(written, hint)


def _unit(unit: str, pattern: str, known: str) -> str | None:
    is_case_free = "{0}" not in known or "FLOPS" in known or known == "{0}B"
    match = re.fullmatch(pattern, unit, re.IGNORECASE if is_case_free else 0)
    if match is None:
        return None
    prefix = match.groupdict().get("prefix") or ""
    binary = "i" if prefix[1:] == "i" else ""
    letter = prefix[:1].upper()
    return known.format(f"{letter if binary or letter != 'K' else 'k'}{binary}")
