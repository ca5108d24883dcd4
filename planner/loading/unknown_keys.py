"""Unknown keys of a strategy: refused, of another program, misspelt, or in the wrong section."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from planner.loading.fault import Fault, Path, dotted
from planner.loading.foreign_meaning import Meaning, value_here
from planner.loading.foreign_names import find_foreign, find_meaning, find_value, is_section, own_tails
from planner.loading.json_schema import find_section
from planner.loading.refused_keys import find_refusal, is_off
from planner.loading.trial import is_legal
from planner.loading.value_examples import example_of
from planner.loading.value_fixes import propose_value
from planner.strategy.parallel import degrees_of
from planner.yaml12_scalars import resolve_scalar
from planner.yaml12_writer import flow_yaml

MayReplace = Callable[[Path, Path], bool]


def never(path: Path, target: Path) -> bool:
    """What is written stays."""
    return False


def explain_unknown(
    path: Path, value: Any, data: Mapping[str, Any], may_replace: MayReplace = never
) -> Fault:
    """The fault of a key that the schema does not have; its fix says what to write instead.

    may_replace: whether this key may take the place of another one that is written, as an override may.
    """
    key = str(path[-1])
    if value is None and (joined := re.fullmatch(r"([A-Za-z_]\w*):(\S.*)", key)):
        return _without_space(path, joined[1], joined[2], data, may_replace)
    misspelt = _misspelt_section(path, value, data)
    if misspelt is not None:
        name = _name(misspelt, path)
        return _moved(
            path, f"unknown key; did you mean {name}?", data, Meaning(writes={dotted(misspelt): value}), value
        )
    named = ("training", *path) if path == ("optimizer",) and isinstance(value, str) else path
    meaning = find_meaning(named, value, data)
    refused = find_refusal(key) if find_foreign(path) is None else None
    if refused is not None and (meaning is None or not meaning.writes):
        fix = f"remove {key}: {flow_yaml(value)} means off, and it is off here anyway"
        if not is_off(key, value):
            here = refused.instead
            without = value_here(here, lambda wanted: find_value(data, wanted)) if here else refused.without
            fix = f"remove {key}; {without}"
        return _fault(path, refused.why, fix, code=refused.code)
    if meaning is not None:
        return _foreign(path, value, data, meaning, may_replace)
    guess = _guess(path, key, value)
    if guess is None:
        found = "unknown key"
        fix = f"remove {key}: no key has this name or one like it (docs/strategy.md lists all)"
        return _fault(path, found, fix)
    here = dotted(guess)
    section = f" in {dotted(path[:-1])}" if guess[-1] == key and len(path) > 1 else ""
    found = f"unknown key{section}; did you mean {_name(guess, path)}?"
    return _moved(path, found, data, Meaning(writes={here: value}), value, may_replace)


def _without_space(
    path: Path, key: str, text: str, data: Mapping[str, Any], may_replace: MayReplace
) -> Fault:
    """`{ep:8}`, which YAML reads as a key of that name without a value."""
    target, value = (*path[:-1], key), resolve_scalar(text)
    section = find_section(path[:-1])
    found = f"unknown key: YAML reads a key and its value only with a space behind the colon, {key}: {text}"
    if section is not None and key in section.written_keys():
        return _moved(path, found, data, Meaning(writes={dotted(target): value}), value, may_replace)
    return replace(explain_unknown(target, value, data, may_replace), path=path, found=found)


def _foreign(
    path: Path, value: Any, data: Mapping[str, Any], meaning: Meaning, may_replace: MayReplace
) -> Fault:
    key, entry = str(path[-1]), find_foreign(path)
    of = "" if entry is None or entry.program == "other" else f" ({entry.program}'s name)"
    keys = list(dict.fromkeys((*meaning.writes, *meaning.asks)))
    code = "SW295" if entry is not None and entry.name in _ACCUMULATION else "SW111"
    if keys:
        found = f"unknown key{of}; here it is {', '.join(_name(tuple(k.split('.')), path) for k in keys)}"
        return _moved(path, found, data, meaning, value, may_replace, code=code)
    if meaning.refused:
        found = f"unknown key{of}: {meaning.refused}"
        return _fault(path, found, f"leave {key} out; {meaning.without or 'nothing here takes its place'}")
    return _fault(
        path, f"unknown key{of}", f"leave {key} out: it changes nothing here ({meaning.no_effect})", code
    )


_ACCUMULATION = (
    *("gradient_accumulation_steps", "gradient_accumulation", "accumulation_steps", "accumulation"),
    *("grad_accum_steps", "batch_accumulation_per_replica"),
)


def _moved(
    path: Path,
    found: str,
    data: Mapping[str, Any],
    meaning: Meaning,
    value: Any,
    may_replace: MayReplace = never,
    code: str = "SW111",
) -> Fault:
    """The key under its name here; a value that is not legal there is replaced by an example."""

    def written_at(target: Path) -> Any:
        return None if may_replace(path, target) else _written(data, target)

    writes: dict[str, Any] = {}
    hints = [meaning.note] if meaning.note else []
    taken: list[str] = []
    for here, item in meaning.writes.items():
        target = tuple(here.split("."))
        written = written_at(target)
        if written is not None:
            taken.append(_taken(path, target, item, written))
        elif is_legal(target, item):
            writes[here] = item
        elif _has_keys_of(target, item):
            writes[here] = {key: _legal((*target, key), inner, data) for key, inner in item.items()}
        elif (proposal := propose_value(target, item, data)) is not None:
            writes[here] = proposal.value
            hints += [text for text in [proposal.hint.lstrip(",: ")] if text]
        else:
            writes[here] = example_of(target)
            hints.append(f"or another legal value: {flow_yaml(item)} is not")
    for here, why in meaning.asks.items():
        target = tuple(here.split("."))
        if written_at(target) is not None:
            taken.append(f"{here} is written already ({why})")
        else:
            writes[here] = example_of(target)
            hints.append(f"or the value that is meant: {why}")
    if meaning.lost:
        hints.append(f"not supported, or without a name here: {', '.join(meaning.lost)}")
    meant = tuple(tuple(here.split(".")) for here in (*meaning.writes, *meaning.asks))
    if not writes:
        return _fault(path, found, f"leave {path[-1]} out: {'; '.join([*taken, *hints])}", code, meant=meant)
    hint = "".join(f" ({text})" for text in (*taken, *hints))
    return _fault(path, found, "", code, value=value, writes=writes, hint=hint, meant=meant)


def _legal(target: Path, value: Any, data: Mapping[str, Any]) -> Any:
    """A value inside a section that is moved, or the legal one that is meant, so that one fix mends both."""
    section = find_section(target[:-1])
    if section is None or target[-1] not in section.written_keys() or is_legal(target, value):
        return value  # an unknown key is told under the right name of its section
    found = propose_value(target, value, data)
    return example_of(target) if found is None else found.value


def _taken(path: Path, target: Path, value: Any, written: Any) -> str:
    """What is said of a key that is written under its own name too."""
    name = _name(target, path) if len(target) > 1 else f"{target[0]}, at the top level,"
    if value == written:
        return f"{name} has that value already"
    return f"{name} is {flow_yaml(written)}; write {flow_yaml(value)} there if that is meant"


def _fault(
    path: Path,
    found: str,
    fix: str,
    code: str = "SW111",
    *,
    value: Any = None,
    writes: Mapping[str, Any] | None = None,
    hint: str = "",
    meant: tuple[Path, ...] = (),
) -> Fault:
    section = find_section(path[:-1])
    keys = ", ".join(section.written_keys()) if section is not None else ""
    return Fault(
        path=path,
        code=code,
        found=found,
        expected=f"one of: {keys}",
        fix=fix,
        writes=writes or {},
        replaces=True,
        value=value,
        hint=hint,
        meant=meant,
    )


_SURE = 0.8  # similarity of a name that is a typing mistake, whatever its value is


def _guess(path: Path, key: str, value: Any) -> Path | None:
    """The key that seems to be meant: near in its section, else the same or very near in another.

    A name that is less near is only taken for one that takes the value: `hidden: 1024` is no hidden_act.
    """
    section = find_section(path[:-1])
    plain = key.lower().lstrip("-").replace("-", "_")
    names = list(section.written_keys()) if section else []
    close = difflib.get_close_matches(plain, names, n=1, cutoff=0.6)
    if close:
        guess = (*path[:-1], close[0])
        are_swapped = sorted(close[0]) == sorted(plain)  # `wiht` for with
        is_sure = are_swapped or difflib.SequenceMatcher(None, close[0], plain).ratio() >= _SURE
        if is_sure or is_legal(guess, value) or _has_keys_of(guess, value):
            return guess
    tails = own_tails()
    near = [plain] if plain in tails else difflib.get_close_matches(plain, list(tails), n=1, cutoff=_SURE)
    return tuple(tails[near[0]].split(".")) if near else None


def _misspelt_section(path: Path, value: Any, data: Mapping[str, Any]) -> Path | None:
    """The section that is meant, not written itself, with keys of which the value has some."""
    if not isinstance(value, dict) or find_foreign(path) is not None or is_section(path, value):
        return None
    guess = _guess(path, str(path[-1]), value)
    if guess is None or _written(data, guess) is not None:
        return None
    return guess if _has_keys_of(guess, value) else None


def _has_keys_of(target: Path, value: Any) -> bool:
    """Whether a value is a mapping with any of a section's keys."""
    section = find_section(target)
    return section is not None and isinstance(value, dict) and bool(set(value) & set(section.written_keys()))


def _name(target: Path, path: Path) -> str:
    """A key as it is named in the section of another: by its last part where it is the same section."""
    return str(target[-1]) if target[:-1] == path[:-1] else dotted(target)


def _written(data: Mapping[str, Any], path: Path) -> Any:
    """The value of a key, also of a degree in a short name; None where it is not written."""
    place: Any = data
    for key in path:
        if isinstance(place, str) and path[0] == "parallel":
            place = degrees_of(place)
        place = place.get(key) if isinstance(place, dict) else None
    return place
