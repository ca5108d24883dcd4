"""Durations as people write them: 00:30:00, 30:00, 1-12:00:00, 1h30m, 1 h 30 min, PT30M, 2 weeks."""

import re
from fractions import Fraction

from planner.units import format_quantity

_CLOCK = re.compile(
    r"(?:(?P<days>\d{1,4})-)?(?P<hours>\d{1,4}):(?P<minutes>[0-5]\d)(?::(?P<seconds>[0-5]\d))?"
)
_PART = re.compile(
    r"\s*(\d+(?:\.\d+)?)\s*"
    r"(y|yrs?|years?|months?|w|wks?|weeks?|d|days?|h|hrs?|hours?|m|mins?|minutes?|s|secs?|seconds?)"
    r"(?![a-zA-Z])\s*(?:,|and)?|\s*(\d+(?:\.\d+)?)\s*([ywdhms])\s*(?=\d)",
    re.IGNORECASE,
)
_ISO = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_SECONDS = {"y": 365 * 86400, "w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}


def read_duration(text: str) -> tuple[str, str] | None:
    """The duration with a unit that is read here, and what else it may be; None if the text is none."""
    plain = text.strip()
    if match := _CLOCK.fullmatch(plain):
        return _of_clock(match)
    if plain.startswith("P") and len(plain) > 2 and (match := _ISO.fullmatch(plain)):
        scales = (86400, 3600, 60, 1)
        return _written(
            sum((Fraction(part or 0) * s for part, s in zip(match.groups(), scales, strict=True)), Fraction())
        )
    total, place = Fraction(), 0
    while place < len(plain):
        match = _PART.match(plain, place)
        if match is None:
            return None
        number, unit = (match[1], match[2]) if match[1] else (match[3], match[4])
        scale = 30 * 86400 if unit.lower().startswith("mo") else _SECONDS[unit[0].lower()]
        total, place = total + Fraction(number) * scale, match.end()
    return _written(total) if total else None


def _of_clock(match: re.Match[str]) -> tuple[str, str] | None:
    first, second, third = int(match["hours"]), int(match["minutes"]), match["seconds"]
    if third is None and match["days"] is None:  # minutes and seconds, or hours and minutes
        found = _written(Fraction(first * 60 + second))
        other = _written(Fraction(first * 3600 + second * 60))
        return (found[0], f"or {other[0]} where hours are meant") if found and other else None
    days = int(match["days"] or 0)
    return _written(Fraction(days * 86400 + first * 3600 + second * 60 + int(third or 0)))


def _written(seconds: Fraction) -> tuple[str, str] | None:
    if not seconds:
        return None
    value = int(seconds) if seconds.denominator == 1 else float(seconds)
    return format_quantity(value, "seconds"), ""
