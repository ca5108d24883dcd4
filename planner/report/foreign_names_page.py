"""Page of foreign names (docs/foreign-names.md), from the table that messages are made from."""

from collections.abc import Iterator, Mapping

from planner.loading.foreign_names import ForeignName, foreign_names
from planner.loading.json_schema import list_paths

_INTRODUCTION = """\
# Names of other programs

<!-- Made by `python -m planner.generated` from planner/loading/foreign_names.yaml: change that. -->

Keys of DeepSpeed, Megatron-LM, Hugging Face (configs and Trainer), torchtitan and nanotron, and what they are
in a [strategy](strategy.md). A strategy that uses one of them is an error (SW111) whose fix is the key here
with its value converted: `ep_size: 8` is answered by `write ep: 8 instead of ep_size: 8`. Case does not
matter, dashes are underscores, and a name is recognized in any section, also below sections of the other
program (`optimizer: {params: {lr: 2e-4}}`). A name with a dot is one below that section only.
"""
_PROGRAMS = ("DeepSpeed", "Megatron-LM", "Hugging Face", "torchtitan", "nanotron", "other")


def foreign_names_page() -> str:
    """The bytes of docs/foreign-names.md."""
    return "\n".join([_INTRODUCTION, *_with_a_key(), *_without_a_key()])


def _with_a_key() -> Iterator[str]:
    """One row for each meaning, in the order of the schema."""
    yield "## With a key here\n"
    yield f"| key here | value | {' | '.join(_PROGRAMS)} |"
    yield "| --- | --- |" + " --- |" * len(_PROGRAMS)
    order = {path: place for place, path in enumerate(list_paths())}
    rows = [row for row in _rows() if row[0]]
    for keys, note, names in sorted(rows, key=lambda row: order[row[0][0]]):
        listed = ", ".join(f"`{key}`" for key in keys)
        yield f"| {listed} | {note or 'the same'} | {' | '.join(map(_cell, names.values()))} |"
    yield ""


def _without_a_key() -> Iterator[str]:
    """Names whose value changes nothing here, or has no counterpart."""
    yield "## Without a key here\n"
    yield f"| what | {' | '.join(_PROGRAMS)} |"
    yield "| --- |" + " --- |" * len(_PROGRAMS)
    for keys, note, names in _rows():
        if not keys:
            yield f"| {note} | {' | '.join(map(_cell, names.values()))} |"
    yield ""


def _rows() -> list[tuple[tuple[str, ...], str, Mapping[str, list[str]]]]:
    """Keys, note and the names by program, of each row of the table."""
    by_row: dict[int, list[ForeignName]] = {}
    for entry in foreign_names().values():
        by_row.setdefault(entry.row, []).append(entry)
    return [
        (
            entries[0].keys,
            entries[0].note,
            {program: [e.name for e in entries if e.program == program] for program in _PROGRAMS},
        )
        for entries in by_row.values()
    ]


def _cell(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
