"""Records inside a JSON value: under keys and lists of a wrapper, in columns, or as rows with names."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.data.dialogs import speech
from runtime.data.prompt_columns import are_messages, at
from runtime.data.turn_columns import find_answers

MAX_DEPTH = 6
NUM_SAMPLED = 20  # of a list's elements
TEXT_CHARACTERS = 80  # a text of this length is one, not a title
MIN_ELEMENTS = 2
# Parts of one document, not documents.
PARTS = frozenset(
    {
        "blocks",
        "body",
        "chunks",
        "content",
        "lines",
        "pages",
        "paragraphs",
        "passages",
        "sections",
        "segments",
        "sents",
    }
    | {"sentences", "text", "tokens", "words"}
)


@dataclass(frozen=True, kw_only=True)
class Nested:
    """Where the records are: `loops` take each as `r` out of the value `r`, `first` is the first of them.

    where: as people write it, `data[].paragraphs[]`. first is a text where the elements are texts. joint: the
    expression of what joins them where they are parts of one document.
    """

    where: str
    loops: tuple[str, ...]
    first: dict[str, Any] | str
    doing: str = "take out its records"
    joint: str | None = None


def find_nested(value: dict[str, Any], name: str, *, has_many: bool) -> Nested | None:
    """The records inside one value; None if it is a record itself.

    Args:
        name: the field that should hold the text.
        has_many: whether the file has other values beside this one, so that it probably is a record.
    """
    document = _find_notebook(value, name) or _find_words(value, name) or find_marked(value, name)
    if document is not None:
        return document
    table = None if has_many else _find_rows(value) or _find_columns(value, name)
    if table is not None:
        return table
    if isinstance(value.get(name), str) or any(map(are_messages, value.values())):
        return None
    if any(isinstance(part, list) and speech(key, part, "r") is not None for key, part in value.items()):
        return None
    if has_many and find_answers(value) is not None:
        return None
    found = _descend(value, name, "", (), MAX_DEPTH)
    if found is None or (has_many and _own_text(value) * 2 > _num_characters(value)):
        return None
    return replace(found, joint=_joint(value, found)) if has_many else found


def _find_notebook(value: dict[str, Any], name: str) -> Nested | None:
    """The text of a notebook of Jupyter: its cells, without what they printed."""
    cells = value.get("cells")
    if "nbformat" not in value or not isinstance(cells, list) or not all(isinstance(c, dict) for c in cells):
        return None
    joined = '"\\n\\n".join("".join(c["source"]) for c in r["cells"])'
    loop = f"for r in [{{{json.dumps(name)}: {joined}}}]"
    return Nested(where="cells", loops=(loop,), first={name: "text"}, doing="join its cells")


def _find_words(value: dict[str, Any], name: str) -> Nested | None:
    """The text of a record whose sentences are lists of words."""
    for key, part in value.items():
        if (
            key.lower() not in PARTS
            or not isinstance(part, list)
            or not part
            or isinstance(value.get(name), str)
        ):
            continue
        if all(isinstance(sentence, list) and all(isinstance(w, str) for w in sentence) for sentence in part):
            joined = f'"\\n".join(" ".join(s) for s in {at(key)})'
            loop = f"for r in [dict(r, **{{{json.dumps(name)}: {joined}}})]"
            return Nested(where=f"{key}[][]", loops=(loop,), first={name: "text"}, doing="join its words")
    return None


def find_marked(value: dict[str, Any], name: str) -> Nested | None:
    """The text of a record that is a list of parts, of which links and bold words are objects (Telegram)."""
    parts = value.get(name)
    if not isinstance(parts, list) or all(isinstance(p, str) for p in parts) or not all(map(_is_part, parts)):
        return None
    joined = f'"".join(p if isinstance(p, str) else p["text"] for p in r.get({json.dumps(name)}) or [])'
    loop = f"for r in [dict(r, **{{{json.dumps(name)}: {joined}}})]"
    return Nested(
        where=f"{name}[]", loops=(loop,), first={**value, name: "text"}, doing="join the parts of its texts"
    )


def _is_part(part: Any) -> bool:
    is_object = isinstance(part, dict) and isinstance(part.get("type"), str) and "role" not in part
    return isinstance(part, str) or (is_object and isinstance(part.get("text"), str))


def _joint(value: dict[str, Any], found: Nested) -> str | None:
    """What joins the parts of a record: an empty line, or a space of words; None: they are documents."""
    key = found.where.partition("[")[0]
    parts = value.get(key)
    if key not in PARTS or not isinstance(parts, list) or len(found.loops) > 1:
        return None
    are_words = all(isinstance(part, str) and " " not in part for part in parts)
    return '" "' if are_words else '"\\n\\n"'


def _find_rows(value: dict[str, Any]) -> Nested | None:
    """Rows as lists beside a list of their names: pandas' orient="split", Datasette, BigQuery."""
    rows_key = next((key for key, rows in value.items() if _are_rows(rows)), None)
    if rows_key is None:
        return None
    rows = value[rows_key]
    for key, names in value.items():
        if key == rows_key or not isinstance(names, list) or len(names) != len(rows[0]):
            continue
        if all(isinstance(each, str) for each in names):
            columns, expression = names, at(key)
        elif all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in names):
            columns, expression = [each["name"] for each in names], f'[c["name"] for c in {at(key)}]'
        else:
            continue
        loops = (f"for n in [{expression}]", f"for v in {at(rows_key)}", "for r in [dict(zip(n, v))]")
        first = dict(zip(columns, rows[0], strict=True))
        return Nested(
            where=f"{rows_key}, named in {key}", loops=loops, first=first, doing="make records of its rows"
        )
    return None


def _are_rows(value: Any) -> bool:
    if not isinstance(value, list) or len(value) < MIN_ELEMENTS:
        return False
    sample = value[:NUM_SAMPLED]
    return all(isinstance(row, list) and row and len(row) == len(sample[0]) for row in sample)


def _find_columns(value: dict[str, Any], name: str) -> Nested | None:
    """Columns, each a list of as many values, or an object with the same keys (pandas' to_json)."""
    columns = list(value.values())
    if not columns:
        return None
    doing = "make records of its columns"
    if all(isinstance(column, list) and len(column) > 1 for column in columns):
        if len({len(column) for column in columns}) > 1 or not _has_scalars(column[0] for column in columns):
            return None
        if len(columns) < 2 and next(iter(value)) != name:
            return None
        first = {key: column[0] for key, column in value.items()}
        loops = ("for t in [r]", "for v in zip(*t.values())", "for r in [dict(zip(t, v))]")
        return Nested(where=", ".join(list(value)[:4]), loops=loops, first=first, doing=doing)
    if not all(isinstance(column, dict) and len(column) > 1 for column in columns):
        return None
    keys = [set(column) for column in columns]
    if any(each != keys[0] for each in keys) or not _has_scalars(v for c in columns for v in c.values()):
        return None
    if name not in value and not (all(map(str.isdecimal, keys[0])) and not all(map(str.isdecimal, value))):
        return None  # an object of records by their ids
    first = {key: next(iter(column.values())) for key, column in value.items()}
    loops = ("for t in [r]", "for k in next(iter(t.values()))", "for r in [{c: v[k] for c, v in t.items()}]")
    return Nested(where=", ".join(list(value)[:4]), loops=loops, first=first, doing=doing)


def _has_scalars(values: Iterator[Any]) -> bool:
    found = list(values)
    return any(isinstance(value, str) for value in found) and not any(
        isinstance(value, dict) for value in found
    )


def _descend(
    value: dict[str, Any], name: str, where: str, loops: tuple[str, ...], depth: int
) -> Nested | None:
    """The records in the part of the value that holds most of its text."""
    if depth == 0:
        return None
    parts = {
        key: part
        for key, part in value.items()
        if isinstance(part, (list, dict)) and part and not are_messages(part)
    }
    inner = _by_ids(value)
    if inner is not None:
        return _of_elements(
            value, inner, name, f"{where}*" if where else "*", (*loops, "for r in r.values()"), depth
        )
    if not parts:
        return None
    key = max(parts, key=lambda key: (name in _first_keys(parts[key]), _num_characters(parts[key])))
    part = parts[key]
    path = f"{where}.{key}" if where else key
    if isinstance(part, list):
        loop = f"for r in {at(key)}" if not loops else f"for r in r.get({json.dumps(key)}) or []"
        return _of_elements(value, part, name, f"{path}[]", (*loops, loop), depth)
    inner = _by_ids(part)
    if inner is not None:
        return _of_elements(value, inner, name, f"{path}.*", (*loops, f"for r in {at(key)}.values()"), depth)
    if isinstance(part.get(name), str):
        return None  # a.b names it
    return _descend(part, name, path, (*loops, f"for r in [{at(key)}] if r"), depth - 1)


def _of_elements(
    outer: dict[str, Any], elements: Sequence[Any], name: str, where: str, loops: tuple[str, ...], depth: int
) -> Nested | None:
    """These elements, or what is inside them."""
    sample = elements[:NUM_SAMPLED]
    if all(isinstance(element, str) for element in sample):
        if _num_characters(elements) * 2 < _num_characters(outer):
            return None
        return Nested(where=where, loops=loops, first=sample[0])
    if not all(isinstance(element, dict) for element in sample):
        return None
    marked = next(filter(None, (find_marked(element, name) for element in sample)), None)
    if marked is not None:
        return replace(marked, where=f"{where}.{marked.where}", loops=(*loops, *marked.loops))
    first = max(sample, key=_num_characters)
    if not _is_record(first, name):
        # An element that wraps its record, as Elasticsearch and the datasets server have it.
        wrapped = [key for key, part in first.items() if isinstance(part, dict) and part]
        if len(wrapped) == 1 and _own_text(first[wrapped[0]]):
            key = wrapped[0]
            return Nested(where=f"{where}.{key}", loops=(*loops, f"for r in [{at(key)}]"), first=first[key])
        deeper = _descend(first, name, where, loops, depth - 1)
        if deeper is not None:
            return deeper
    return Nested(where=where, loops=loops, first=first) if _num_characters(first) else None


def _is_record(element: dict[str, Any], name: str) -> bool:
    """Whether it has a text, or a conversation, of its own, and not only the title of what is inside it."""
    if isinstance(element.get(name), str) or find_answers(element) is not None:
        return True
    longest = max((len(text) for text in element.values() if isinstance(text, str)), default=0)
    return longest >= TEXT_CHARACTERS or _own_text(element) * 2 >= _num_characters(element)


def _by_ids(value: dict[str, Any]) -> list[Any] | None:
    """The values of an object whose keys are ids of records or texts; None for other objects."""
    values = list(value.values())
    if len(values) < MIN_ELEMENTS + 1:
        return None
    if all(isinstance(each, dict) for each in values):
        sample = values[:NUM_SAMPLED]
        common = set.intersection(*(set(each) for each in sample))
        return values if common and 2 * len(common) >= max(map(len, sample)) else None
    if all(isinstance(each, str) for each in values):
        has_ids = all(any(character.isdecimal() for character in key) for key in value)
        return values if has_ids else None
    return None


def _first_keys(part: Any) -> set[str]:
    """The keys of a list's first element."""
    first = part[0] if isinstance(part, list) and part else None
    return set(first) if isinstance(first, dict) else set()


def _own_text(value: Any) -> int:
    """The characters of its texts that are not inside another object or list."""
    if not isinstance(value, dict):
        return 0
    return sum(len(text) for text in value.values() if isinstance(text, str))


def _num_characters(value: Any, depth: int = MAX_DEPTH) -> int:
    """The characters of all texts in a value, of the first elements of a list."""
    if isinstance(value, str):
        return len(value)
    if depth == 0 or are_messages(value):
        return 0 if depth == 0 else sum(len(str(message)) for message in value)
    if isinstance(value, dict):
        return sum(_num_characters(part, depth - 1) for part in value.values())
    if isinstance(value, list):
        sample = value[:NUM_SAMPLED]
        return sum(_num_characters(part, depth - 1) for part in sample) * len(value) // max(1, len(sample))
    return 0
