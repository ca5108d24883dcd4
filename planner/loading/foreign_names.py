"""Foreign names: keys of DeepSpeed, Megatron-LM, Hugging Face, torchtitan, nanotron, as keys of a strategy.

foreign_names.yaml is the one table, from which messages, `plan --from ds_config.json` and
docs/foreign-names.md are made.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.loading.foreign_meaning import Convert, Meaning, always, same, unless_off, words
from planner.loading.foreign_values import CONVERTERS
from planner.loading.json_schema import list_paths
from planner.strategy.parallel import degrees_of
from planner.yaml12 import Document


@dataclass(frozen=True, kw_only=True)
class ForeignName:
    """A key of another program. keys: those here that it becomes; note: how its value is converted.

    row: of the table; names with one meaning share it. takes_section: whether its value may be a mapping;
    that of the others is then a section of the same name, with keys of its own.
    """

    name: str
    program: str
    keys: tuple[str, ...]
    convert: Convert
    note: str = ""
    row: int
    takes_section: bool = False


@lru_cache(maxsize=1)
def foreign_names() -> Mapping[str, ForeignName]:
    """Every name of the table; one with a dot holds in that section only."""
    path = Path(__file__).with_name("foreign_names.yaml")
    root = Document(path.read_text(encoding="utf-8"), path.name).root
    assert root is not None
    found: dict[str, ForeignName] = {}
    for place, row in enumerate(root.plain()):
        keys = tuple(row["keys"])
        for program, names in row["names"].items():
            for name in names.split():
                assert name not in found, f"{name} is in two rows"
                found[name] = ForeignName(
                    name=name,
                    program=program,
                    keys=keys,
                    convert=_converter(row),
                    note=row.get("note", ""),
                    row=place,
                    takes_section=_takes_section(row),
                )
    return found


def _converter(row: Mapping[str, Any]) -> Convert:
    keys = row["keys"]
    if "convert" in row:
        return CONVERTERS[row["convert"]]
    if isinstance(row.get("no_effect"), str):
        return always(Meaning(no_effect=row["no_effect"]))
    if isinstance(row.get("refused"), str):
        return unless_off(Meaning(refused=row["refused"], without=row.get("without", "")))
    if "words" in row or "no_effect" in row:
        no_effect, refused = (
            {word: why for why, listed in row.get(kind, {}).items() for word in listed}
            for kind in ("no_effect", "refused")
        )
        path = keys[0] if keys else None
        return words(path, row.get("words", {}), no_effect, refused, row.get("without", ""))
    return same(keys[0])


def _takes_section(row: Mapping[str, Any]) -> bool:
    return row.get("convert") in ("zero_stage", "bf16_section", "corpora", "fsdp") or any(
        isinstance(row.get(kind), str) for kind in ("no_effect", "refused")
    )


def is_section(path: Sequence[str | int], value: Any) -> bool:
    """Whether a value is a section with foreign names in it, whatever its own name means elsewhere."""
    entry = find_foreign(path)
    return (
        isinstance(value, dict)
        and not (entry is not None and entry.takes_section)
        and any(find_foreign((*path, key)) is not None for key in value)
    )


def find_foreign(path: Sequence[str | int]) -> ForeignName | None:
    """The entry of a key, with its section or alone; case, dashes and accelerate's prefixes are free."""
    parts = [plain_name(str(part)) for part in path[-2:]]
    return foreign_names().get(".".join(parts)) or foreign_names().get(parts[-1])


# Of the keys of its sections for other programs, which have them without.
_PREFIX = re.compile(r"(megatron_lm|parallelism_config)_(?!config)")


def plain_name(key: str) -> str:
    """A key as the table has it."""
    return _PREFIX.sub("", key.lower().lstrip("-").replace("-", "_"), count=1)


def find_meaning(path: Sequence[str | int], value: Any, data: Mapping[str, Any]) -> Meaning | None:
    """What a foreign key with its value is here; None if the name is not known.

    A section of another program (`optimizer: {params: {lr: …}}`) is the sum of its keys. `data` is the
    document, whose other keys a conversion may need.
    """
    entry = find_foreign(path)
    if entry is not None and not is_section(path, value):
        found = entry.convert(value, lambda wanted: find_value(data, wanted))
        return replace(found, lost=tuple(key for key in found.lost if not _is_idle((*path, key), value)))
    if not isinstance(value, dict):
        return None
    inner = {
        key: find_meaning((*path, key), item, data) or _own(key, item, data) for key, item in value.items()
    }
    known = [meaning for meaning in inner.values() if meaning is not None]
    if not any(meaning.writes or meaning.asks for meaning in known):
        return None
    return Meaning(
        writes={here: item for meaning in known for here, item in meaning.writes.items()},
        asks={here: why for meaning in known for here, why in meaning.asks.items()},
        lost=tuple(f"{key}" for key, meaning in inner.items() if meaning is None or meaning.refused)
        + tuple(f"{key}.{lost}" for key, found in inner.items() if found is not None for lost in found.lost),
        note="; ".join(meaning.note for meaning in known if meaning.note),
    )


def _is_idle(path: Sequence[str | int], section: Mapping[str, Any]) -> bool:
    """Whether the last key of the path, one of the section's, can be left out without a change."""
    meaning = find_meaning(path, section[str(path[-1])], section)
    return meaning is not None and bool(meaning.no_effect)


def _own(key: str, value: Any, data: Mapping[str, Any]) -> Meaning | None:
    """A key of a strategy in a section of another program: `gradient_clipping`."""
    path = own_tails().get(plain_name(key))
    if path is None or path.startswith("cluster.") or isinstance(value, dict):
        return None  # `peak` of a schedule is not that of a GPU
    return same(path)(value, lambda _: None)


@lru_cache(maxsize=1)
def own_tails() -> Mapping[str, str]:
    """The last part of each dotted key here -> the key; the first one of several."""
    return {path.rpartition(".")[2]: path for path in reversed(list_paths())}


def find_value(data: Mapping[str, Any], wanted: str) -> Any:
    """The value of a dotted key here or of a foreign name, written as such or under another name; or None."""
    place: Any = data
    for key in wanted.split("."):
        place = place.get(key) if isinstance(place, dict) else None
        if key == "parallel" and isinstance(place, str) and wanted != key:
            place = degrees_of(place)
    if place is not None:
        return place
    for path, value in _leaves(data, ()):
        if path[-1] == wanted:
            return value
        if own_tails().get(path[-1]) == wanted and not isinstance(value, dict):
            return value  # a name that both have, without its section: learning_rate
        entry = find_foreign(path)
        if entry is not None and not entry.note and entry.keys == (wanted,):
            return value
    return None


def _leaves(data: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in data.items():
        yield (*path, str(key)), value
        if isinstance(value, dict):
            yield from _leaves(value, (*path, str(key)))
