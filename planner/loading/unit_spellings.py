"""Spellings of units that people write, as the units that are read: GBps, gbit/s, TFLOPs, minutes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from planner.loading.duration_spellings import read_duration
from planner.loading.number_spellings import split_number
from planner.units import NAMED_COUNTS, UNITS, Dimension, QuantityError, parse_quantity

# What people write behind a unit, or before a number, that is not part of the quantity.
_ASIDES = re.compile(
    r"(?i)\s*\b(of\s+)?(hbm\d?e?|g?ddr\d?x?|vram|ram|memory|infiniband|ib|ethernet|eth|roce|rdma|nics?|peak|dense|"
    r"bf16|fp16|fp32|max|(per|/)\s*(gpu|card|device|port|link|rank|direction)|each|total|one[- ]way|"
    r"unidirectional)\b"
)
_BOTH_WAYS = re.compile(
    r"(?i)[\s,(]*\b(bi-?dir(ectional)?|(in\s+)?both\s+(directions|ways)|two-way|duplex)\b[)\s]*"
)
_TIMES = re.compile(r"\s*(\d{1,3})\s*[x×*]\s*(?=\d)")
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
        (rf"{_PREFIX}([bB]its?|b?e|bE|b|)", "{0}bps"),  # 400 Gbit, 400GbE, 400G, 3.2 Tb
    ),
    "FLOP/s": ((rf"{_PREFIX}f?(lops?|LOPS?|LOPs)?\s*(/\s*s|ps)?", "{0}FLOPS"),),
    "seconds": (
        (r"(s|secs?|seconds?)", "s"),
        (r"(ms|msecs?|milliseconds?)", "ms"),
        (r"(m|mins?|minutes?)", "min"),
        (r"(h|hrs?|hours?)", "h"),
        (r"(d|days?)", "d"),
    ),
    "tokens": _counts("tokens?|toks?"),
    "parameters": _counts("params?|parameters?"),
    "FLOP": ((rf"{_PREFIX}f?(lops?|LOPS?|LOPs)", "{0}FLOP"),),
    "$/GPU-hour": (
        (r"(\$|usd|dollars?|us\$)?\s*(/|per|an|a)?\s*(gpu)?[-\s]*(/|per)?\s*(h|hrs?|hours?)?", "$/GPU-hour"),
    ),
}


_WORDS = (
    *(("kibi", "Ki"), ("mebi", "Mi"), ("gibi", "Gi"), ("tebi", "Ti")),
    *(
        ("kilo", "k"),
        ("mega", "M"),
        ("giga", "G"),
        ("tera", "T"),
        ("peta", "P"),
        ("gigs?$", "GB"),
        ("megs?$", "MB"),
    ),
)
# What a number without a unit most often means, by its size: at least so much -> unit, what else it may be.
_USUAL: Mapping[str, tuple[tuple[float, str, str], ...]] = {
    "bytes": ((1e7, "B", ""), (2000, "MiB", "or with another unit"), (0, "GB", "or with another unit")),
    "memory_bandwidth": (
        (1e9, "B/s", ""),
        (20, "GB/s", "or with another unit"),
        (0, "TB/s", "or with another unit"),
    ),
    "intra_host": (
        (1e7, "B/s", "or bps"),
        (0, "GB/s", "or Gbps; one way: data sheets of NVLink add both directions"),
    ),
    "bytes/s": ((1e7, "bps", "or B/s"), (0, "Gbps", "or with another unit")),
    "FLOP/s": ((1e9, "FLOPS", ""), (0, "TFLOPS", "or with another unit")),
    "seconds": ((0, "s", "or with another unit"),),
}


@dataclass(frozen=True)
class Suggestion:
    """A quantity that seems to be meant; hint: what else it may be."""

    text: str
    hint: str = ""


def suggest_quantity(value: str | int | float, dimension: Dimension, key: str = "") -> Suggestion | None:
    """The quantity with a unit that is read; None where nothing in the text says what is meant.

    A sign is left out: no quantity of a strategy is below 0. key: the last part of its dotted key.
    """
    text = str(value)
    if len(text) > 64:
        return None
    if dimension == "seconds" and (duration := read_duration(text)) is not None:
        return Suggestion(*duration)
    if dimension == "bytes/s" and (halved := _BOTH_WAYS.sub("", text)) != text:
        return _scaled(halved, dimension, key, Fraction(1, 2), "one way: half of both directions")
    times = _TIMES.match(text)
    if times is not None and dimension in ("bytes", "bytes/s"):
        rest, number = text[times.end() :], int(times.group(1))
        if key == "per_host":
            return _scaled(rest, dimension, key, Fraction(number), f"all {number} together")
        return _scaled(rest, dimension, key, Fraction(1), f"one of the {number}: a GPU's own")
    return _suggest(text, dimension, key) or _suggest(_ASIDES.sub("", text), dimension, key)


def _scaled(text: str, dimension: Dimension, key: str, factor: Fraction, hint: str) -> Suggestion | None:
    found = suggest_quantity(text.strip(), dimension, key)
    if found is None:
        return None
    split = split_number(found.text)
    if split is None:
        return None
    number = Fraction(split[0]) * factor
    shown = str(int(number)) if number.denominator == 1 else f"{float(number):.6g}"
    return Suggestion(f"{shown} {split[1]}", "; ".join(filter(None, [hint, found.hint])))


def _suggest(text: str, dimension: Dimension, key: str) -> Suggestion | None:
    split = split_number(text)
    if split is None:
        return None
    number, unit = split[0].lstrip("+-"), split[1]
    hint = ""
    usual = _USUAL.get(key) or _USUAL.get(dimension)
    if not unit and usual is not None:
        unit, hint = next((unit, hint) for least, unit, hint in usual if float(number) >= least)
    elif dimension == "bytes/s" and re.fullmatch(r"[kmgt]b/s(ec)?", unit):
        letter = unit[0].upper() if unit[0] != "k" else "k"
        unit, hint = f"{letter}bps", f"or {number} {letter}B/s where bytes are meant"
    elif unit not in UNITS[dimension]:
        for word, letter in _WORDS:
            unit = re.sub(rf"(?i)^{word}", letter, unit)
        thousand = re.fullmatch(r"(?i)k\s+(\w+)", unit) if dimension == "seconds" else None
        if thousand:  # 50k hours
            number, unit = f"{Fraction(number) * 1000}", thousand.group(1)
        found = next((u for u in (_unit(unit, *row) for row in _SPELLINGS.get(dimension, ())) if u), None)
        if found is None:
            return None
        is_noun = re.fullmatch(r"(?i)(tokens?|toks?|params?|parameters?)?", unit) is not None
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
