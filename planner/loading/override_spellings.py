"""Overrides as people write them: `--parallel.ep 2`, `training/steps=10`, several in one, a section."""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from planner.loading.json_schema import field_schema, find_section, is_list, list_paths
from planner.loading.unknown_keys import explain_unknown
from planner.loading.value_examples import TEXT_MAPPINGS, example_of
from planner.strategy.host_expressions import split_outside_brackets
from planner.yaml12 import Document
from planner.yaml12 import Mapping as YamlMapping
from planner.yaml12_scalars import resolve_scalar
from planner.yaml12_writer import flow_yaml

KEY = re.compile(r"[^.\s=]+(?:\.[^.\s=]+)*")
_NEXT = re.compile(r"[\s,;]+(?=(?P<key>[+~-]{0,2}[A-Za-z_][\w./-]*)\s*=)")
_SEPARATOR = re.compile(r"\]?(?:[/:]|__|->|\[)['\"]?|['\"]?\]$|['\"]")
# A device is whole: the memory of one with the rates of another is neither.
_WHOLE = (("cluster", "gpu"),)
# Whose null is a default that follows from other keys, which their schema does not show.
_DERIVED = ("model.num_key_value_heads", "model.head_dim")
_LENGTHS = ("training.steps", "training.tokens")  # exactly one of them is written
# Without these another model is trained, on other data, or in another place.
_DECISIVE: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("data",): ("path", "mix", "text_field", "tokenizer", "format", "packing"),
    ("model",): ("init_from",),
    ("output",): ("folder", "resume"),
}


def meant_by(text: str) -> str:
    """The fix of what is no override: `--parallel.ep 2`, `parallel.ep:2`, `training steps=10`."""
    match = re.match(r"[+~-]*([A-Za-z_][\w.-]*)\s*[:=\s]\s*(.+)", text.strip(), re.DOTALL)
    key = match.group(1) if match else text.strip().lstrip("-")
    if match is not None:
        inner, separator, value = match.group(2).partition("=")
        if separator and find_section((key,)) is not None and KEY.fullmatch(inner.strip()):
            return write_overrides(meaning_of(f"{key}.{inner.strip()}", value.strip()))
        return write_overrides(meaning_of(key, match.group(2)))
    if key not in list_paths():
        return f"write {key}=VALUE" if KEY.fullmatch(key) else "write key=value, for example parallel.ep=2"
    example = flow_yaml(example_of(key.split(".")))
    return f"{write_overrides([f'{key}={example}'])}, or another legal value"


def write_overrides(overrides: Iterable[str]) -> str:
    """The fix that writes them, as a shell takes them."""
    return f"write {' '.join(map(shlex.quote, overrides))}"


def own_key(key: str) -> str | None:
    """The key here of one with other separators, of Hydra, of the environment or of a program's options; None
    where there is none: training/steps, training[steps], training__steps, +training.steps, Training.Steps."""
    if _is_known(key):
        return key
    plain = _SEPARATOR.sub(".", key.lstrip("+~-")).strip(".").lower().replace("-", "_")
    return plain if _is_known(plain) else None


def meaning_of(key: str, value: str) -> list[str]:
    """The overrides that a key and its value mean: under other separators, or another name."""
    named = own_key(key)
    if named is not None:
        return [f"{named}={value}"]
    try:
        plain = resolve_scalar(value.strip())
    except ValueError:
        return [f"{key}={value}"]
    writes = explain_unknown(tuple(key.split(".")), plain, {}).writes
    return [f"{here}={flow_yaml(item)}" for here, item in writes.items()] or [f"{key}={value}"]


def split_overrides(text: str) -> list[str]:
    """The overrides of one argument, of which an argument has one: `parallel.ep=2 training.steps=4`.

    Only where another key of a strategy follows: the value of one that takes any text may hold a `b=2`.
    """
    key, _, _ = text.partition("=")
    starts = [0]
    for match in _NEXT.finditer(text):
        before = text[starts[-1] : match.start()]
        if "=" in before and not _is_open(before.partition("=")[2]) and _follows(match["key"], key):
            starts.append(match.end())
    if len(starts) == 1:
        return [text]
    parts = (text[start:end].strip(" \t\n,;") for start, end in zip(starts, [*starts[1:], None], strict=True))
    found: list[str] = []
    for part in parts:
        name, _, value = part.partition("=")
        found += meaning_of(name.strip(), value.strip())
    return found


def unquoted(text: str) -> str | None:
    """The override inside quotes that a shell did not take off; None for another text."""
    inner = text[1:-1]
    is_quoted = text[:1] in ("'", '"') and text[-1:] == text[:1] and text[0] not in inner
    return inner if is_quoted and "=" in inner else None


def fix_of_nothing(key: str, value_at: Callable[[tuple[str, ...]], object]) -> str | None:
    """The fix of an override with nothing after its `=`, where that would be taken for null; None for a key
    that takes no null, whose Problem says so.

    Args:
        value_at: the value at a path of the document.
    """
    if key in _LENGTHS:
        (other,) = set(_LENGTHS) - {key}
        return f"write {key}=null" if value_at(tuple(other.split("."))) is not None else meant_by(key)
    schema = field_schema(tuple(key.split("."))) or {}
    takes_null = any(branch.get("type") == "null" for branch in schema.get("anyOf", ()))
    return f"write {key}=null" if takes_null or key in _DERIVED else None


def quote_items(text: str) -> str | None:
    """A list with its items in quotes where they need them, `[a, "::1"]`; None where it is none then."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    items = split_outside_brackets(text[1:-1], ",")
    quoted = (item if not Document(f"[{item}]", None).problems else flow_yaml(item) for item in items)
    written = f"[{', '.join(quoted)}]"
    return None if Document(written, None).problems else written


def keys_of_section(keys: tuple[str, ...], value: Any) -> list[str]:
    """Each key of a section that an override writes as a whole, as an override of its own."""
    return list(_leaves(keys, value))


def left_out(keys: tuple[str, ...], value: Any, written: Any) -> list[str]:
    """The keys that a section has and its override leaves out, of those that are required or decide what is
    trained."""
    section = find_section(keys)
    if section is None or is_list(keys) or keys in _WHOLE:
        return []
    if (
        not isinstance(value, YamlMapping)
        or not isinstance(written, YamlMapping)
        or "model_type" in value.entries
    ):
        return []
    return [
        name
        for name, field in section.written_keys().items()
        if name in written.entries
        and name not in value.entries
        and (
            field.is_required()
            or (name in _DECISIVE.get(keys, ()) and written.entries[name].value is not None)
        )
    ]


def _leaves(keys: tuple[str, ...], value: Any) -> Iterator[str]:
    section = find_section(keys)
    if not isinstance(value, dict) or section is None or is_list(keys) or keys in _WHOLE:
        yield f"{'.'.join(keys)}={flow_yaml(value)}"
        return
    for key, item in value.items():
        if key in section.written_keys():
            yield from _leaves((*keys, key), item)
        else:
            writes = explain_unknown((*keys, key), item, {}).writes
            yield from (f"{here}={flow_yaml(meant)}" for here, meant in writes.items())


def _is_open(text: str) -> bool:
    """Whether a value ends inside brackets or quotes."""
    depth, quote = 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
    return bool(quote) or depth > 0


def _follows(key: str, first: str) -> bool:
    """Whether a word before a `=` is the key of another override."""
    named = own_key(key)
    if named is not None:
        return True
    path = tuple((own_key(first.strip()) or first.strip()).split("."))
    if find_section(path) is not None:
        return False  # parallel=EP=4,TP=2
    schema = field_schema(path) or {}
    takes_text = any(branch.get("type") == "string" for branch in (schema, *schema.get("anyOf", ())))
    return not takes_text and bool(explain_unknown(tuple(key.split(".")), 1, {}).writes)


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    return frozenset(list_paths())


def _is_known(key: str) -> bool:
    return key in _known() or tuple(key.split(".")[:-1]) in TEXT_MAPPINGS
