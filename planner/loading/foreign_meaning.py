"""Meaning of a key of another program: what it writes here, what it asks, or why it has no place here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from planner.loading.value_examples import example_of
from planner.units import shorten
from planner.yaml12_writer import flow_yaml

AUTO = "auto"  # the Hugging Face Trainer replaces it in a DeepSpeed configuration


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a key of another program is here.

    writes: dotted key here -> value. asks: dotted key here -> why its value is not known. no_effect: why the
    key can be left out without a change. refused: why it cannot be expressed; without writes the key has to
    be given up. without: what the training is without it. lost: parts of a mapping that have no counterpart.
    wrong: what is legal in the other program, where the value is not.
    """

    writes: Mapping[str, Any] = field(default_factory=dict)
    asks: Mapping[str, str] = field(default_factory=dict)
    no_effect: str = ""
    refused: str = ""
    without: str = ""
    lost: tuple[str, ...] = ()
    note: str = ""
    wrong: str = ""


Find = Callable[
    [str], Any
]  # the value of a dotted key here, under whichever name it is written; None without
Convert = Callable[[Any, Find], Meaning]


def same(path: str) -> Convert:
    """The value as it is."""
    return lambda value, find: write(path, value)


def always(meaning: Meaning) -> Convert:
    """The same meaning whatever the value is."""
    return lambda value, find: meaning


def unless_off(meaning: Meaning) -> Convert:
    """The same meaning, unless the value says that it is not used."""

    def convert(value: Any, find: Find) -> Meaning:
        is_off = value is None or value is False or value in ("", (), [], {})
        return Meaning(no_effect=f"{shown(value)} means off") if is_off else meaning

    return convert


def write(path: str, value: Any) -> Meaning:
    """A value for a key here; `auto` and null leave it open."""
    if value == AUTO:
        return Meaning(asks={path: "auto leaves it to the Hugging Face Trainer"})
    if value is None:
        return Meaning(no_effect="null leaves it to the default")
    return Meaning(writes={path: value})


def words(
    path: str | None,
    table: Mapping[str, Any],
    no_effect: Mapping[str, str],
    refused: Mapping[str, str],
    without: str = "",
) -> Convert:
    """A word or a switch (`true`, `false`) by tables: to a value here, or to why there is none."""

    def convert(value: Any, find: Find) -> Meaning:
        word = str(value).lower().removeprefix("torch.")
        if word in no_effect:
            return Meaning(no_effect=no_effect[word])
        if path is None:
            why = refused.get(word, f"{shown(value)} has no counterpart")
            return Meaning(refused=why, without=without)
        if word in refused:
            return Meaning(refused=refused[word], without=without or value_here(path, find))
        if word in table:
            return Meaning(writes={path: table[word]})
        return write(path, value) if value in (AUTO, None) else Meaning(asks={path: f"not {shown(value)}"})

    return convert


def value_here(path: str, find: Find) -> str:
    """What a key here is without one of another name."""
    written = find(path)
    if written is not None:
        return f"{path} is {shown(written)}, as it is written"
    return f"{path} is then {shown(example_of(path.split('.')))}, its default"


def shown(value: Any) -> str:
    """The value as it is written, on one line of a message."""
    return shorten(flow_yaml(value))


def count(value: Any) -> int | None:
    """The value as a count of at least 1; None for anything else."""
    found = number(value)
    return int(found) if found is not None and found >= 1 and found == int(found) else None


def number(value: Any) -> float | None:
    """The value as a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return None
    return value
