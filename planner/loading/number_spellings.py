"""Numbers as people write them: 1,000, 1.000.000, 0,0003, ~80, 4*1024, 2^12, 3×10^-4, 64 experts, top-2."""

import ast
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

_ABOUT = r"\s*(?:(?:~|≈|≤|<=|about|approx\.?|approximately|ca\.?|circa|up to)\s*)?[$€]?\s*"
_EXPONENT = r"(?P<exponent>[eE][-+]?\d{1,3})?"
_SIGNED = r"(?P<number>[-+]?"
_GROUPS = r"[1-9]\d{0,2}(?:(?P<by>[,_ '’])\d{3})(?:(?P=by)\d{3})*(?:\.\d+)?)(?![\d,])"
_FORMS = tuple(
    re.compile(_ABOUT + _SIGNED + form + _EXPONENT)
    for form in (
        _GROUPS,  # thousands; a single group behind a dot is a decimal
        r"[1-9]\d{0,2}(?:(?P<by>\.)\d{3}){2,})(?![\d.])",
        r"\d+,\d+)(?![\d,])",  # a decimal comma
        r"(?:\d[\d_]*(?:\.\d*)?|\.\d+))",
    )
)
_NOUN = re.compile(
    r"[-\s]*(?:(?:training|optimizer|global|micro|routed|attention|shared|dense|transformer|newest|last)\s+)?"
    r"(?:x|×|steps?|iters?|iterations?|updates?|batch(?:es)?|seqs?|sequences?|samples?|examples?|layers?|blocks?|"
    r"experts?|heads?|gpus?|devices?|cards?|accelerators?|nodes?|hosts?|machines?|servers?|ways?|ranks?|workers?|"
    r"process(?:es)?|procs?|stages?|replicas?|checkpoints?|ckpts?|chunks?|mfu|restarts?|dims?|channels?|ids|slots?)"
    r"(?:\s*(?:/|per|each|in|of|a)\b.*)?",
    re.IGNORECASE,
)
TOKENS = re.compile(r"\s*(?:tokens?|toks?)(?:\s*(?:/|per)\s*(?:step|batch|update))?", re.IGNORECASE)
_LEADING = re.compile(r"(?i)(?:top|zero|stage|level|ep|tp|pp|dp|x|n)[-_ =:]*(?:stage|degree)?[-_ =:]*(?=\d)")
_MULTIPLES = {"k": 10**3, "m": 10**6, "mio": 10**6, "b": 10**9, "bn": 10**9, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20}
_PRODUCT = re.compile(r"[\d.eE+()\s-]+(?:(?:\*\*?|/)[\d.eE+()\s-]+)+")
_LARGEST_POWER = 64
# As articles have it: a minus sign, or the dash that some print for it.
_TYPOGRAPHIC_MINUS = re.compile("^\\s*[\u2212\u2013]|(?<=[eE^])[\u2212\u2013]")
Thousand = Literal["1000", "1024", "either"]


def split_number(text: str) -> tuple[str, str] | None:
    """The number at the beginning of a text, as it is read here, and what follows it; None without one."""
    for form in _FORMS:
        match = form.match(text)
        if match is None:
            continue
        number, by = match["number"], match.groupdict().get("by")
        number = number.replace(by, "") if by else number.replace(",", ".").replace("_", "")
        return number + (match["exponent"] or ""), text[match.end() :].strip()
    return None


def read_numbers(
    text: str, *, thousand: Thousand = "1000", takes_tokens: bool = False
) -> Iterator[tuple[float, str]]:
    """The numbers that a text may mean, with what else it may be.

    Args:
        thousand: what k is for the key: 1024 more often than 1000 for a sequence length.
        takes_tokens: of the key, whose noun is tokens.
    """
    # also typographic quotes, and spaces of no width
    text = _TYPOGRAPHIC_MINUS.sub("-", text)
    plain = re.sub(r"\s+(//|--).*$", "", text.strip(" \t\n\u00a0\u200b\ufeff“”‘’«»„'\"()[]"))
    if len(plain) > 64:
        return
    product = _product(plain)
    if product is not None:
        yield product, ""
    plain = _LEADING.sub("", plain, count=1) if _LEADING.match(plain) else plain
    split = split_number(plain)
    if split is None:
        return
    number, rest = split
    value = Fraction(number) if "." not in number[-1:] else Fraction(number + "0")
    if rest in ("", "f", ".", ";", ","):
        yield _number(value), ""
        return
    match = re.match(r"(?i)(ki|mi|k|mio|m|bn|b|g|t)(?![a-z])(.*)", rest)
    factor, noun = (match.group(1).lower(), match.group(2)) if match else ("", rest)
    is_known = not noun.strip() or _NOUN.fullmatch(noun) or (takes_tokens and TOKENS.fullmatch(noun))
    if not is_known:
        return
    if factor == "k" and thousand == "either":
        yield _number(value * 1000), f", or {_number(value * 1024)} where k is 1024"
    elif factor == "k" and thousand == "1024":
        yield _number(value * 1024), f", or {_number(value * 1000)} where k is 1000"
    elif factor:
        yield _number(value * (_MULTIPLES.get(factor) or _BINARY[factor])), ""
    else:
        yield _number(value), ""


def _number(value: Fraction) -> float:
    return int(value) if value.denominator == 1 else float(value)


def _product(text: str) -> float | None:
    """Products, quotients and powers of numbers: 4*1024, 2^12, 3×10^-4, 1/16."""
    plain = re.sub(r"(?<=\d)\s*[x×·]\s*(?=\d)", "*", text).replace("^", "**")
    if len(plain) > 40 or not _PRODUCT.fullmatch(plain):
        return None
    try:
        found = _evaluate(ast.parse(plain.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return None if found is None else _number(found)


def _evaluate(node: ast.expr) -> Fraction | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return Fraction(repr(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _evaluate(node.operand)
        return None if inner is None else -inner
    if not isinstance(node, ast.BinOp):
        return None
    left, right = _evaluate(node.left), _evaluate(node.right)
    if left is None or right is None:
        return None
    if isinstance(node.op, ast.Mult):
        return left * right
    if isinstance(node.op, ast.Div):
        return left / right
    if isinstance(node.op, ast.Pow) and right.denominator == 1 and abs(right) <= _LARGEST_POWER:
        return left ** int(right) if abs(left) <= 10**6 else None
    return None
