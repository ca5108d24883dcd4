"""Plain scalars of YAML 1.2: null, true, numbers; everything else is text."""

import re

MAX_DIGITS = 300  # longer numbers overflow a float

# YAML 1.2.2, section 10.3.2 (core schema): plain scalars. Everything else is text: unlike in YAML 1.1, `no`,
# `on`, `10:30`, `2024-01-01` and `1_000` are text, `017` is seventeen, `3e-4` is a number.
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_NAN = re.compile(r"\.nan|\.NaN|\.NAN")


def resolve_scalar(text: str) -> str | int | float | bool | None:
    """The value of a plain (unquoted) scalar in YAML 1.2.

    Raises:
        ValueError: a number with too many digits.
    """
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    is_number = (
        _INT.fullmatch(text) or _OCTAL.fullmatch(text) or _HEX.fullmatch(text) or _FLOAT.fullmatch(text)
    )
    if is_number and len(text) > MAX_DIGITS:
        raise ValueError(f"the number has {len(text)} digits")
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if match := _INFINITY.fullmatch(text):
        return float("-inf" if match.group(1) == "-" else "inf")
    if _NAN.fullmatch(text):
        return float("nan")
    return text
