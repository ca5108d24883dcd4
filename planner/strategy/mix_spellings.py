"""Mixtures as people write them: pairs, weights in turn, a mapping of paths, other names of the two keys.

Megatron-LM's `--data-path 0.7 a 0.3 b`, NeMo's `data_prefix: [0.7, a, 0.3, b]`, Axolotl's `datasets`, and
`{a: 0.7, b: 0.3}` all say which files, and how much of each.
"""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import isfinite
from typing import Any

PATH_NAMES = ("path", "name", "dataset", "data_path", "folder", "dir", "file", "data_files", "paths")
WEIGHT_NAMES = (
    *("weight", "ratio", "proportion", "probability", "prob", "fraction", "share", "p", "mix_ratio"),
    *("sampling_ratio", "sampling_weight", "sample_ratio", "percent", "percentage", "weights"),
)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_PAIR = re.compile(r"(?P<path>[^\s:=,]+)\s*[:=]\s*(?P<weight>\d*\.?\d+\s*%?)")

Part = tuple[Any, float | None]  # a path, or a list of them, and its weight where one is written


def find_parts(value: Any) -> list[Part] | None:
    """The corpora and the weights that a value names; None where it does not say them."""
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, Mapping):
        return _of_mapping(value)
    if not isinstance(value, (list, tuple)) or not value:
        return None
    in_turn = _in_turn(value)
    if in_turn is not None:
        return in_turn
    parts = [_part(item) for item in value]
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else None


def as_mix(parts: Sequence[Part]) -> list[dict[str, Any]] | None:
    """The same as a value of data.mix; None without parts.

    A part without a weight gets an equal share of what the others leave of 1, or 1 where they leave nothing.
    A part of weight 0 is left out, as other programs read none of it, unless all have it: then the shares are
    equal. A weight below 0 is one with a sign too many.
    """
    if not parts:
        return None
    weights = [None if weight is None else abs(weight) for _, weight in parts]
    if not any(weight is None or weight > 0 for weight in weights):
        weights = [1.0] * len(weights)
    written = [Fraction(repr(weight)) for weight in weights if weight is not None]
    left, missing = 1 - sum(written, Fraction()), len(weights) - len(written)
    each = left / missing if missing and written and left > 0 else Fraction(1)
    share = _plain(each)
    return [
        {"path": path, "weight": share if weight is None else _plain(Fraction(repr(weight)))}
        for (path, _), weight in zip(parts, weights, strict=True)
        if weight != 0
    ]


def explain_mix(parts: Sequence[Part]) -> str:
    """What is said behind the fix: which parts and weights it changes, and the other choice."""
    weights = [weight for _, weight in parts if weight is not None]
    if not weights:
        return ", or data.path for all of each of them"
    notes = [f", with {_plain(Fraction(repr(-w)))} for {w:g}" for w in weights if w < 0]
    if 0 in weights:
        dropped = [str(path) for path, weight in parts if weight == 0]
        is_equal = len(dropped) == len(parts)
        notes.append(
            ", for equal shares" if is_equal else f", without {', '.join(dropped)}, which has no share"
        )
    return "".join(notes)


def has_weights(parts: Sequence[Part]) -> bool:
    """Whether any part has a weight: without one they are a list of paths."""
    return any(weight is not None for _, weight in parts)


def as_paths(parts: Sequence[Part]) -> Any:
    """The same as a value of data.path: one path, or a list."""
    paths: list[Any] = []
    for path, _ in parts:
        paths += path if isinstance(path, (list, tuple)) else [path]
    return paths[0] if len(paths) == 1 else paths


def weight_of(value: Any) -> float | None:
    """A number, or a percentage as a share; None for anything else."""
    if isinstance(value, str):
        if match := _PERCENT.fullmatch(value.strip()):
            return float(Fraction(match.group(1)) / 100)
        return float(value) if re.fullmatch(r"\d*\.?\d+", value.strip()) else None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    return value if is_number else None


def _plain(number: Fraction) -> int | float:
    return int(number) if number.denominator == 1 else float(f"{float(number):.6g}")


def _is_path(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(item, str) and item for item in value)
    return isinstance(value, str) and bool(value.strip()) and weight_of(value) is None


def _of_text(text: str) -> list[Part] | None:
    pairs = [part for part in re.split(r"[,;]\s*|\s+(?=\S+[:=]\s*\d)", text.strip()) if part]
    matches = [_PAIR.fullmatch(pair.strip()) for pair in pairs]
    if pairs and all(matches):
        return [(match["path"], weight_of(match["weight"])) for match in matches if match]
    return _in_turn(text.replace(",", " ").split())


def _of_mapping(value: Mapping[Any, Any]) -> list[Part] | None:
    part = _part(value)
    if part is not None:
        return [part]
    if "train" in value:  # beside validation and test
        return find_parts(value["train"])
    if value and all(_is_path(path) and weight_of(weight) is not None for path, weight in value.items()):
        return [(path, weight_of(weight)) for path, weight in value.items()]
    return None


def _in_turn(items: Sequence[Any]) -> list[Part] | None:
    """A weight, a path, a weight, a path: or the other way round."""
    if len(items) < 2 or len(items) % 2:
        return None
    for first, second in ((0, 1), (1, 0)):
        weights, paths = [weight_of(item) for item in items[first::2]], list(items[second::2])
        if all(weight is not None for weight in weights) and all(isinstance(p, str) for p in paths):
            found = [(path, weight) for path, weight in zip(paths, weights, strict=True)]
            return found if all(_is_path(path) for path in paths) else None
    return None


def _part(item: Any) -> Part | None:
    """One corpus: a path, a pair, or a mapping with other names of the two keys."""
    if isinstance(item, str):
        found = _of_text(item)
        return found[0] if found and len(found) == 1 else (item, None) if _is_path(item) else None
    if isinstance(item, Mapping):
        path = next((item[name] for name in PATH_NAMES if _is_path(item.get(name))), None)
        given = next((item[name] for name in WEIGHT_NAMES if item.get(name) is not None), None)
        weight = weight_of(given)
        return (path, weight) if path is not None and (given is None or weight is not None) else None
    if isinstance(item, (list, tuple)) and len(item) == 2:
        found = _in_turn(item)
        return found[0] if found else None
    return None
