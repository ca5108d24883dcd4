"""Hardware files: devices by name, as devices.yaml and the user's files write them, and every mistake in one.

An entry may be `like` another, whose curves it then has, scaled.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.files import read_limited
from planner.hardware.device import KEYS, EntryError, make_device, unknown_keys
from planner.hardware.scaling import scaled_entry
from planner.problems import Problem, StrategyError
from planner.units import Dimension, QuantityError, parse_quantity
from planner.yaml12 import MAX_BYTES, Document
from planner.yaml12 import Mapping as DocumentMapping

LINKS = "links"  # the key of a hardware file that holds link presets, not a device
NEAREST = "H100"  # the one GPU that was measured: what is not known is scaled from it
_SHIPPED = Path(__file__).parent / "devices.yaml"
_FAULTS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


@lru_cache(maxsize=1)
def devices() -> dict[str, dict[str, Any]]:
    """name -> entry of devices.yaml, quantities as text with their units; `like` is resolved."""
    return _resolved(_entries(_SHIPPED.read_text(encoding="utf-8"), "devices.yaml"), {})


def find_name(text: str, known: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The device that a name or an alias means, whatever its case, dashes and spaces."""
    if text in known:
        return text
    names = {_plain(name): name for name in known}
    aliases = {_plain(str(alias)): name for name in known for alias in known[name].get("aliases") or ()}
    return (aliases | names).get(_plain(text))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in " -_").removeprefix("nvidia")


def read_calibration(path: Path) -> dict[str, dict[str, Any]]:
    """The devices of a hardware file, `like` resolved.

    Raises:
        StrategyError: if it is not one.
    """
    return {name: entry for name, entry in read_hardware(path).items() if name != LINKS}


def read_hardware(path: Path) -> dict[str, dict[str, Any]]:
    """All that a hardware file has, link presets as written under LINKS.

    Raises:
        StrategyError: with every mistake in its devices, or that it is no hardware file.
    """
    lines: dict[tuple[str, ...], int | None] = {}
    written = _written(path, lines)
    found = {LINKS: written.pop(LINKS)} if LINKS in written else {}
    problems: list[Problem] = []
    for name, entry in written.items():
        known = devices() | found
        errors = list(_faults_of(name, entry, known, str(path)))
        problems += (_unread(path, lines, (name,), error) for error in errors)
        # An entry that is `like` a faulty one is not at fault for that.
        found[name] = devices()[NEAREST] if errors else _resolved({name: entry}, known)[name]
    if problems:
        raise StrategyError(problems)
    return found


def read_links(path: Path) -> Any:
    """What a hardware file has under LINKS, as it is written.

    Raises:
        StrategyError: if it is no hardware file.
    """
    return _written(path, {}).get(LINKS) or {}


def _written(path: Path, lines: dict[tuple[str, ...], int | None]) -> dict[str, Any]:
    try:
        return _entries(read_limited(path, MAX_BYTES).decode(), str(path), lines)
    except (OSError, ValueError) as error:
        raise StrategyError([_unread(path, lines, (), error)]) from None


def _faults_of(name: str, entry: Any, known: Mapping[str, dict[str, Any]], file: str) -> Iterator[Exception]:
    """Everything that is wrong with an entry; a legal value stands in for each wrong one that was found."""
    if not isinstance(entry, dict):
        yield TypeError(f"{name} is not a mapping")
        return
    yield from unknown_keys(entry)
    if "memory" not in entry:
        yield EntryError("memory", "memory is missing")
    trial = {"memory": devices()[NEAREST]["memory"], **{key: entry[key] for key in entry if key in KEYS}}
    for key, dimension in _UNITS.items():
        if key in entry and (why := _why_not(entry[key], dimension)) is not None:
            yield EntryError(key, f"{key}: {why}")
            trial[key] = devices()[NEAREST].get(key, "1 TB/s")
    unmeasured = [key for key in _MEASURED if key not in entry]
    if "like" not in entry and len(unmeasured) > 2:
        yield EntryError(
            "like", f"{', '.join(unmeasured)} are missing; `like: {NEAREST}` takes them from that device"
        )
        trial = {**trial, "like": NEAREST, "source": trial.get("source", "none")}
    seen: set[str] = set()
    while True:
        try:
            make_device(name, _resolved({name: trial}, known)[name], file)
            return
        except _FAULTS as error:
            yield error
            if not isinstance(error, EntryError) or str(error) in seen or not _stand_in(trial, error.key):
                return
            seen.add(str(error))


# What benchmarks.calibrate measures; an entry that is `like` another has that one's.
_MEASURED = ("gemm", "elementwise", "operation", "latency", "message", "link_share")
_UNITS: Mapping[str, Dimension] = {"memory": "bytes", "memory_bandwidth": "bytes/s"}


def _why_not(value: Any, dimension: Dimension) -> str | None:
    """Why a value is not a quantity with its unit; None where it is one."""
    if not isinstance(value, str):
        return f"{value!r} has no unit"
    try:
        return None if parse_quantity(value, dimension) > 0 else f"{value!r} is not above 0"
    except QuantityError as error:
        return str(error)


def _stand_in(trial: dict[str, Any], key: str) -> bool:
    """Give a wrong key of an entry a legal value; whether that is possible."""
    legal = devices()[NEAREST]
    if key in legal:
        trial[key] = legal[key]
        return True
    if key in legal["latency"] and isinstance(trial.get("latency"), dict):
        if trial["latency"].get(key) == legal["latency"][key] and isinstance(trial.get("links"), dict):
            trial["links"] = {other: value for other, value in trial["links"].items() if other != key}
        trial["latency"] = {**trial["latency"], key: legal["latency"][key]}
        return True
    return key != "like" and trial.pop(key, None) is not None


def _unread(
    path: Path, lines: Mapping[tuple[str, ...], int | None], at: tuple[str, ...], error: Exception
) -> Problem:
    key = error.key if isinstance(error, EntryError) else ""
    return Problem(
        code="SW141",
        file=str(path),
        line=lines.get((*at, key), lines.get(at)),
        path=".".join(at) or None,
        found=_why_unread(error),
        expected="entries as in planner/hardware/devices.yaml",
        fix="correct the file, measure again with python -m benchmarks.calibrate, or remove it",
    )


def _why_unread(error: Exception) -> str:
    match error:
        case UnicodeDecodeError():
            return "not a hardware file: not UTF-8 text"
        case OSError():
            return f"cannot be read: {(error.strerror or str(error)).lower()}"
        case KeyError():
            return f"not a hardware file: {error.args[0]} is missing"
        case ValueError():
            return f"not a hardware file: {error}"
    return f"not a hardware file: a value has the wrong type ({error})"


def _entries(
    text: str, file: str, lines: dict[tuple[str, ...], int | None] | None = None
) -> dict[str, dict[str, Any]]:
    """The top level of a file; `lines` gets the line of each entry and of each of its keys."""
    document = Document(text, file)
    if document.problems:
        first = document.problems[0]
        raise ValueError(f"line {first.line}: {first.found}" if first.line else first.found)
    if document.root is None or not isinstance(document.root.value, DocumentMapping):
        raise ValueError("no entries by name")
    top = document.root.value.entries
    if lines is not None:
        for name, entry in top.items():
            lines[(name,)] = entry.line
            if isinstance(entry.value, DocumentMapping):
                lines.update({(name, key): inner.line for key, inner in entry.value.entries.items()})
    return {name: entry.plain() for name, entry in top.items()}


def _resolved(
    written: Mapping[str, dict[str, Any]], others: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Entries with the curves of the one that each is `like`, which is before it or in `others`."""
    found: dict[str, dict[str, Any]] = {}
    for name, entry in written.items():
        like = entry.get("like") if isinstance(entry, dict) else None
        if like is not None:
            bases = {**others, **found}
            base = find_name(str(like), bases)
            if base is None:
                names = ", ".join(each for each in bases if each != LINKS)
                raise EntryError("like", f"like: unknown device {like!r}; known: {names}")
            entry = scaled_entry(entry, base, bases[base])
        elif not isinstance(entry, dict):
            raise TypeError(f"{name} is not a mapping")
        found[name] = entry
    return found
