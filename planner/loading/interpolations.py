"""Interpolations of OmegaConf and Hydra, `${training.steps}`, `${oc.env:HOME}`, and what they come to.

A strategy has none: its values are what is written. They are resolved only to say what to write instead, and
in the files of other programs, which resolve them as well.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planner.loading.foreign_meaning import number
from planner.yaml12 import Entry, Mapping
from planner.yaml12_scalars import resolve_scalar

_ANY = re.compile(r"\$\{.*\}|\{\{.*\}\}|^\$[A-Za-z_]\w*$", re.DOTALL)
_VARIABLE = re.compile(r"\$([A-Za-z_]\w*)")
_INNER = re.compile(r"\$\{([^${}]*)\}")
_MOST_STEPS = 32  # of one value; a cycle has no end
_MAX_LENGTH = 4096

Path = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Interpolation:
    """A value with interpolations; `entry` is what it comes to, None where nothing here says that."""

    path: Path
    text: str
    entry: Entry | None


def find_interpolations(root: Entry) -> tuple[Interpolation, ...]:
    """Every value with an interpolation, in the order of the document; of a list the list."""
    return tuple(_find(root, root, ()))


def with_resolved(root: Entry, found: Sequence[Interpolation]) -> Entry:
    """The document with what they come to in their places; a key of which nothing is known is left out."""
    for one in found:
        root = _replaced(root, one.path, one.entry)
    return root


def _find(root: Entry, place: Entry, path: Path) -> Iterator[Interpolation]:
    if isinstance(place.value, Mapping):
        for key, entry in place.value.entries.items():
            yield from _find(root, entry, (*path, key))
        return
    texts = [place] if isinstance(place.value, str) else place.value if isinstance(place.value, tuple) else ()
    written = [str(item.value) for item in texts if isinstance(item.value, str) and _ANY.search(item.value)]
    if not written:
        return
    resolved = [_resolve(root, item, path) if isinstance(item.value, str) else item for item in texts]
    if isinstance(place.value, str):
        yield Interpolation(path=path, text=written[0], entry=resolved[0])
        return
    items = tuple(item for item in resolved if item is not None)
    is_known = len(items) == len(resolved)
    yield Interpolation(path=path, text=written[0], entry=replace(place, value=items) if is_known else None)


def _resolve(root: Entry, place: Entry, path: Path) -> Entry | None:
    """What a text comes to: a value of any kind where it is one interpolation, else a text."""
    alone = _VARIABLE.fullmatch(str(place.value))
    text = str(place.value) if alone is None else f"${{{alone[1]}}}"
    for _ in range(_MOST_STEPS):
        match = _INNER.search(text)
        if match is None:
            return None if _ANY.search(text) else replace(place, value=text)
        found = _meaning(root, match[1].strip(), path)
        if found is None:
            return None
        if match[0] == text:
            if not isinstance(found.value, str):
                return None if _has_any(found) else replace(found, line=place.line, override=place.override)
            text = found.value
        elif isinstance(found.value, (Mapping, tuple)) or found.value is None:
            return None
        else:
            inner = str(found.value).lower() if isinstance(found.value, bool) else str(found.value)
            text = text[: match.start()] + inner + text[match.end() :]
        if len(text) > _MAX_LENGTH:
            return None
    return None


def _meaning(root: Entry, inside: str, path: Path) -> Entry | None:
    """The value of what is between the braces."""
    resolver, separator, rest = inside.partition(":")
    if separator:
        return _call(resolver.strip(), [part.strip() for part in rest.split(",")])
    dots = len(inside) - len(inside.lstrip("."))
    keys = tuple(part for part in re.split(r"[.\[\]]+", inside) if part)
    if dots and dots <= len(path):
        keys = (*path[: len(path) - dots], *keys)
    place = root
    for key in keys:
        if not isinstance(place.value, Mapping) or key not in place.value.entries:
            named = os.environ.get(inside) if len(keys) == 1 else None
            return None if named is None else Entry(value=resolve_scalar(named), line=None)
        place = place.value.entries[key]
    return place if keys else None


def _call(resolver: str, parts: list[str]) -> Entry | None:
    """OmegaConf's resolvers, and NeMo's `multiply`."""
    try:
        if resolver in ("oc.env", "env"):
            named = os.environ.get(parts[0], parts[1] if len(parts) > 1 else None)
            return None if named is None else Entry(value=resolve_scalar(named), line=None)
        if resolver in ("oc.decode", "int", "float") and len(parts) == 1:
            return Entry(value=resolve_scalar(parts[0]), line=None)
        if resolver in ("multiply", "mul", "times"):
            product: float = 1
            for part in parts:
                factor = number(resolve_scalar(part))
                if factor is None:
                    return None
                product *= factor
            return Entry(value=product, line=None)
    except ValueError:
        pass  # a number with too many digits
    return None


def _has_any(place: Entry) -> bool:
    if isinstance(place.value, Mapping):
        return any(map(_has_any, place.value.entries.values()))
    if isinstance(place.value, tuple):
        return any(map(_has_any, place.value))
    return isinstance(place.value, str) and _ANY.search(place.value) is not None


def _replaced(place: Entry, path: Path, value: Entry | None) -> Entry:
    assert isinstance(place.value, Mapping)
    key, *rest = path
    entries = dict(place.value.entries)
    if rest:
        entries[key] = _replaced(entries[key], tuple(rest), value)
    elif value is None:
        del entries[key]
    else:
        entries[key] = replace(value, line=entries[key].line)
    return replace(place, value=Mapping(entries=entries))
