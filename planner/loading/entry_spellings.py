"""Entries in another form: NAME=VALUE texts for a mapping, a mapping for claims, a command for a list."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from planner.strategy.claim_quantities import CLAIM_QUANTITIES

# Mappings of any names.
_MAPPINGS = (
    ("launch", "environment"),
    ("launch", "slurm"),
    ("launch", "srun"),
    ("launch", "kubernetes", "labels"),
)
_PAIR = re.compile(r"(?:export\s+)?-{0,2}([A-Za-z][\w.-]*)[=:](.*)", re.DOTALL)


def as_entries(path: Sequence[str | int], value: Any) -> Iterator[Any]:
    """The value in the form of the key; nothing where it says something else."""
    if tuple(path) in _MAPPINGS and isinstance(value, (str, list, tuple)):
        pairs = _pairs(value)
        if pairs is not None:
            yield pairs
    if tuple(path) == ("launch", "prologue") and isinstance(value, str):
        yield [line.strip() for line in value.splitlines() if line.strip()]
    if tuple(path) == ("claims",) and isinstance(value, Mapping) and set(value) <= set(CLAIM_QUANTITIES):
        yield [{"quantity": name, "value": item, "where": "strategy"} for name, item in value.items()]


def _pairs(value: Any) -> dict[str, str] | None:
    try:
        items = shlex.split(value) if isinstance(value, str) else list(value)
    except ValueError:
        return None
    found = [_PAIR.fullmatch(item) if isinstance(item, str) else None for item in items]
    pairs = {match[1]: match[2].strip() for match in found if match is not None}
    return pairs if pairs and len(pairs) == len(items) else None
