"""Units of quantities: parsing to base units, and printing with a unit."""

import re
from collections.abc import Sequence
from fractions import Fraction
from math import floor, log10
from typing import Literal

Dimension = Literal[
    "bytes",
    "bytes/s",
    "FLOP/s",
    "FLOP",
    "seconds",
    "share",
    "tokens",
    "parameters",
    "tokens/s",
    "batches/s",
    "$/GPU-hour",
    "count",
]

_DECIMAL = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50}


def _with_prefixes(unit: str, scale: Fraction, prefixes: tuple[str, ...]) -> dict[str, Fraction]:
    table = {}
    for prefix in prefixes:
        factor = Fraction(2 ** _BINARY[prefix]) if prefix in _BINARY else Fraction(10 ** _DECIMAL[prefix])
        table[prefix + unit] = scale * factor
    return table


NAMED_COUNTS: tuple[Dimension, ...] = ("tokens", "parameters")  # written without a space: 7B
_COUNT_NAMES = {
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "B": Fraction(10**9),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
}

# unit -> how many base units it is; the first of equal size is the one that is printed
UNITS: dict[Dimension, dict[str, Fraction]] = {
    "bytes": {
        **_with_prefixes("B", Fraction(1), ("", "k", "M", "G", "T", "P")),
        **_with_prefixes("B", Fraction(1), ("Ki", "Mi", "Gi", "Ti", "Pi")),
        "KB": Fraction(1000),
    },
    "bytes/s": {
        **_with_prefixes("B/s", Fraction(1), ("", "k", "M", "G", "T")),
        **_with_prefixes("B/s", Fraction(1), ("Ki", "Mi", "Gi", "Ti")),
        **_with_prefixes("bps", Fraction(1, 8), ("", "k", "K", "M", "G", "T")),
        **_with_prefixes("bit/s", Fraction(1, 8), ("", "k", "M", "G", "T")),
    },
    "FLOP/s": {
        **_with_prefixes("FLOPS", Fraction(1), ("", "M", "G", "T", "P")),
        **_with_prefixes("FLOP/s", Fraction(1), ("", "M", "G", "T", "P")),
    },
    "FLOP": {
        **_with_prefixes("FLOP", Fraction(1), ("", "M", "G", "T", "P", "E")),
        **_with_prefixes("FLOPs", Fraction(1), ("", "M", "G", "T", "P", "E")),
    },
    "seconds": {
        "s": Fraction(1),
        "ms": Fraction(1, 1000),
        "us": Fraction(1, 10**6),
        "µs": Fraction(1, 10**6),
        "ns": Fraction(1, 10**9),
        "min": Fraction(60),
        "h": Fraction(3600),
        "d": Fraction(86400),
    },
    "share": {"": Fraction(1), "%": Fraction(1, 100)},
    "tokens": _COUNT_NAMES,
    "parameters": _COUNT_NAMES,
    "tokens/s": {"tokens/s": Fraction(1)},
    "batches/s": {"batches/s": Fraction(1)},
    "$/GPU-hour": {"$/GPU-hour": Fraction(1), "$/GPU-h": Fraction(1), "USD/GPU-hour": Fraction(1)},
    "count": {"": Fraction(1)},
}
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?"
_ABOVE_0 = rf"(?=\+?[0.]*[1-9]){_NUMBER.replace('[-+]?', '[+]?', 1)}"  # the quantities of a strategy
_QUANTITY = re.compile(rf"({_NUMBER})\s*(\S*)")
# printed: decimal and binary prefixes of the first spelling of each dimension
_PRINTED: dict[Dimension, tuple[str, ...]] = {
    "bytes": ("PB", "TB", "GB", "MB", "kB", "PiB", "TiB", "GiB", "MiB", "KiB", "B"),
    "bytes/s": ("Tbps", "Gbps", "TB/s", "GB/s", "Mbps", "MB/s", "kbps", "kB/s", "bps", "B/s"),
    "FLOP/s": ("PFLOPS", "TFLOPS", "GFLOPS", "MFLOPS", "FLOPS"),
    "FLOP": ("EFLOP", "PFLOP", "TFLOP", "GFLOP", "MFLOP", "FLOP"),
    "seconds": ("d", "h", "min", "s", "ms", "us", "ns"),
    "share": ("%", ""),
    "tokens": ("T", "B", "M", "k", ""),
    "parameters": ("T", "B", "M", "k", ""),
    "tokens/s": ("tokens/s",),
    "batches/s": ("batches/s",),
    "$/GPU-hour": ("$/GPU-hour",),
    "count": ("",),
}
EXAMPLES: dict[Dimension, str] = {
    "bytes": "64 GB",
    "bytes/s": "100 Gbps",
    "FLOP/s": "400 TFLOPS",
    "FLOP": "3 GFLOP",
    "seconds": "10 min",
    "share": "95 %",
    "tokens": "1T",
    "parameters": "7B",
    "tokens/s": "10240 tokens/s",
    "batches/s": "80 batches/s",
    "$/GPU-hour": "2.5 $/GPU-hour",
    "count": "68",
}


class QuantityError(ValueError):
    """A quantity that cannot be parsed; the text says what was found."""


def parse_quantity(text: str, dimension: Dimension) -> int | float:
    """The quantity in base units (bytes, bytes/s, FLOP/s, seconds, or the bare number); an int if integral.

    Raises:
        QuantityError: not a number with a unit, an unknown unit, or a unit of another dimension.
    """
    match = _QUANTITY.fullmatch(text.strip()) if len(text) <= 64 else None
    if match is None:
        raise QuantityError(f"{shorten(text)!r} is not a number with a unit")
    number, unit = match.groups()
    scale = UNITS[dimension].get(unit)
    if scale is None:
        if not unit:
            raise QuantityError(f"{text!r} has no unit")
        other = next((d for d, units in UNITS.items() if unit in units), None)
        if other is not None:
            raise QuantityError(f"{text!r} is in {other}, not in {dimension}")
        raise QuantityError(f"{text!r} has an unknown unit: {unit!r}")
    value = Fraction(number) * scale
    if abs(value) > 10**30:
        raise QuantityError(f"{text!r} is too large")
    return int(value) if value.denominator == 1 else float(value)


def legal_units(dimension: Dimension) -> str:
    """The usual units of a dimension as a list to read, the bare number without a unit left out."""
    return ", ".join(unit for unit in reversed(_PRINTED[dimension]) if unit)


def quantity_pattern(dimension: Dimension) -> str:
    """A regular expression (JSON schema dialect) for the quantities of a dimension."""
    units = "|".join(re.escape(unit).replace("\\ ", " ") for unit in UNITS[dimension] if unit)
    optional = "?" if "" in UNITS[dimension] else ""
    return rf"^\s*{_ABOVE_0}\s*({units}){optional}\s*$"


def format_quantity(value: int | float, dimension: Dimension) -> str:
    """The shortest text with a unit that `parse_quantity` reads back to exactly `value`."""
    if dimension == "count":
        return repr(value)
    candidates = []
    for order, unit in enumerate(_PRINTED[dimension]):
        scaled = Fraction(repr(value)) / UNITS[dimension][unit]  # the decimal that repr shows, not the binary
        number = str(int(scaled)) if scaled.denominator == 1 else repr(float(scaled))
        text = f"{number}{unit}" if dimension in NAMED_COUNTS else f"{number} {unit}".strip()
        read = parse_quantity(text, dimension)
        if (float(read) if isinstance(value, float) else read) == value:
            # A unit, a number of 1 to 9999, the fewest characters, the larger unit: in this order.
            candidates.append((not unit, not 1 <= abs(scaled) < 10_000, len(number), order, text))
    assert candidates, f"{value!r} has no exact text in {dimension}"
    return min(candidates)[4]


# what people read: unit -> base units, the largest first
_BYTES = (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
_COUNTS = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
_FLOPS = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
_TIMES = (
    ("days", 86_400.0, 2 * 86_400.0),
    ("h", 3600.0, 2 * 3600.0),
    ("min", 60.0, 2 * 60.0),
    ("s", 1.0, 1.0),
    ("ms", 1e-3, 1e-3),
    ("us", 1e-6, 0.0),
)


def format_number(value: float, digits: int = 3) -> str:
    """A number for people: `digits` significant digits, or all before the point; no exponent."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - floor(log10(abs(value))))
    decimals = max(0, digits - 1 - floor(log10(abs(round(value, decimals)))))  # 9.996 is 10.0
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _with_unit(value: float, units: Sequence[tuple[str, float]], digits: int = 3) -> tuple[str, str]:
    """The number and the unit in which a quantity reads best: from 1 to 999 where there is such a unit."""
    rounded = abs(float(f"{value:.{digits - 1}e}"))  # 999.7 MB is 1 GB
    unit, scale = next(((unit, scale) for unit, scale in units if rounded >= scale), units[-1])
    return format_number(value / scale, digits), unit


def format_bytes(value: int | float) -> str:
    """Bytes for people: three significant digits in GB, MB …, never exact."""
    return " ".join(_with_unit(round(value), _BYTES))


def format_rate(bytes_per_s: float) -> str:
    """Bytes per second for people."""
    return f"{' '.join(_with_unit(bytes_per_s, _BYTES))}/s"


def format_count(value: int | float) -> str:
    """A count for people, as models and data are named by it: 30.5B parameters, 1T tokens."""
    return "".join(_with_unit(value, _COUNTS))


def format_flops(value: int | float, suffix: str = "FLOPs") -> str:
    """FLOPs for people; suffix FLOPS: of a second."""
    number, prefix = _with_unit(value, _FLOPS)
    return f"{number} {prefix}{suffix}"


def format_money(dollars: float) -> str:
    """Dollars for people: cents below 100, else whole dollars."""
    return f"${dollars:,.2f}" if dollars < 100 else f"${dollars:,.0f}"


def shorten(text: str, limit: int = 60) -> str:
    """A text that fits on a line of an error message."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def milliseconds(seconds: float, sign: str = "") -> str:
    """A duration's number of ms: three digits, or all before the point. sign: "+" writes a plus too."""
    number = format_number(seconds * 1e3)
    return f"+{number}" if sign and not number.startswith("-") else number


def format_seconds(value: float, digits: int = 3) -> str:
    """A duration for people, in the unit in which it reads best, from days to microseconds."""
    if not value:
        return "0 s"
    rounded = float(f"{value:.{digits - 1}e}")
    unit, scale = next((unit, scale) for unit, scale, least in _TIMES if rounded >= least)
    return f"{format_number(value / scale, digits)} {unit}"


def plural(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
