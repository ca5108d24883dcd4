"""Device catalog: entries of devices.yaml and of the user's files, by name; which one a strategy means.

Three places, the first that has a name wins: a calibration or `--hardware FILE`, the user's own file
(`~/.config/switchyard/hardware.yaml`), devices.yaml. A file adds devices, and replaces the curves of a
shipped one, whose memory and peaks stay those of devices.yaml (or of the strategy).
"""

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.files import read_limited
from planner.hardware.device import (
    CPU,
    KEYS,
    Curve,
    Device,
    EntryError,
    MeasuredCollective,
    make_device,
    peaks_of,
    unknown_keys,
)
from planner.hardware.scaling import bandwidth_of, scaled_entry
from planner.problems import Problem, StrategyError
from planner.units import parse_quantity
from planner.yaml12 import MAX_BYTES, Document
from planner.yaml12 import Mapping as DocumentMapping

__all__ = ["CPU", "Curve", "Device", "MeasuredCollective"]

CALIBRATION_NAME = "hardware.yaml"  # under output.folder, where `python -m benchmarks.calibrate` writes
LINKS = "links"  # the key of a hardware file that holds link presets, not a device
UNNAMED = "unnamed"  # a device given by its figures that matches no entry
_SHIPPED = Path(__file__).parent / "devices.yaml"
_NEAREST = "H100"  # the one GPU that was measured: what is not known is scaled from it


@lru_cache(maxsize=1)
def devices() -> dict[str, dict[str, Any]]:
    """name -> entry of devices.yaml, quantities as text with their units; `like` is resolved."""
    return _resolved(_entries(_SHIPPED.read_text(encoding="utf-8"), "devices.yaml"), {})


def user_file() -> Path | None:
    """The user's own hardware file, if there is one."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    path = Path(folder) / "switchyard" / "hardware.yaml"
    return path if path.is_file() else None


def calibration_path(output_folder: str | os.PathLike[str]) -> Path | None:
    """The calibration that belongs to a folder of runs, if there is one."""
    path = Path(output_folder) / CALIBRATION_NAME
    return path if path.is_file() else None


def known_devices(hardware: Path | None = None) -> dict[str, dict[str, Any]]:
    """Every device that a strategy may name: the shipped ones, and those that the user's files add.

    Raises:
        StrategyError: if a file is no hardware file.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in (user_file(), hardware):
        found |= read_calibration(file) if file is not None else {}
    return found | devices()


def find_name(text: str, known: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The device that a name or an alias means, whatever its case, dashes and spaces."""
    if text in known:
        return text
    names = {_plain(name): name for name in known}
    aliases = {_plain(str(alias)): name for name in known for alias in known[name].get("aliases") or ()}
    return (aliases | names).get(_plain(text))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in " -_").removeprefix("nvidia")


def device_of(gpu: Any, calibration: Path | None = None) -> Device:
    """The device of a strategy's `cluster.gpu`: the calibration's entry, the user's, or the shipped one.

    A device without a name is the entry with its figures, or one with scaled curves. One whose peaks or
    memory bandwidth the strategy overrides keeps its curves, scaled alike.

    Raises:
        StrategyError: if a file cannot be read.
    """
    name, shipped = entry_of(gpu)
    for file in (calibration, user_file()):
        measured = read_calibration(file) if file is not None else {}
        if name in measured and (name != UNNAMED or is_entry(gpu, measured[name])):
            return make_device(name, _overridden(gpu, name, measured[name]), str(file))
    return make_device(name, _overridden(gpu, name, shipped), None)


def entry_of(gpu: Any) -> tuple[str, dict[str, Any]]:
    """The shipped entry of a strategy's `cluster.gpu`, under the name that a calibration gives it."""
    entries = devices()
    name = gpu.name or next((n for n, e in entries.items() if is_entry(gpu, e)), None)
    if name in entries:
        return name, entries[name]
    return name or UNNAMED, _entry_of_figures(gpu, devices()[_NEAREST], _NEAREST)


def device_named(name: str) -> Device:
    """A shipped entry."""
    return make_device(name, devices()[name], None)


def is_entry(gpu: Any, entry: Mapping[str, Any]) -> bool:
    """Whether an entry has the memory, the bandwidth and the peaks of a strategy's `cluster.gpu`."""
    same = parse_quantity(entry["memory"], "bytes") == gpu.memory and peaks_of(entry) == _peaks(gpu)
    return bool(same and ("memory_bandwidth" not in entry or bandwidth_of(entry) == gpu.memory_bandwidth))


def _peaks(gpu: Any) -> dict[str, float]:
    return {key: value for key, value in gpu.peak.model_dump().items() if value is not None}


def _entry_of_figures(gpu: Any, base: Mapping[str, Any], base_name: str) -> dict[str, Any]:
    """An entry with the scaled curves of another device, for a strategy's own figures."""
    figures = {
        "memory": f"{gpu.memory} B",
        "memory_bandwidth": f"{gpu.memory_bandwidth!r} B/s",
        "peak": {key: f"{value!r} FLOPS" for key, value in _peaks(gpu).items()},
        "source": "the strategy's own memory, memory bandwidth and peaks",
    }
    return scaled_entry(figures, base_name, base)


def _overridden(gpu: Any, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry, with what the strategy overrides of its peaks and bandwidth; what is measured stays, unless
    the strategy has other figures than the file and devices.yaml."""
    if gpu.name is None or name == CPU:
        return entry
    usual = devices().get(name, entry)
    peaks = _peaks(gpu) in (peaks_of(usual), peaks_of(entry))
    bandwidth = gpu.memory_bandwidth in (bandwidth_of(usual), bandwidth_of(entry))
    if peaks and bandwidth:
        return entry
    scaled = _entry_of_figures(gpu, entry, name)
    links: dict[str, Any] = {
        key: entry[key] for key in ("links", "fresh", "cores", "collectives", "contention") if key in entry
    }
    return {
        **scaled,
        **links,
        "source": f"{entry['source']}; peaks and bandwidth as the strategy overrides them",
    }


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
        found[name] = devices()[_NEAREST] if errors else _resolved({name: entry}, known)[name]
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


_FAULTS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def _faults_of(name: str, entry: Any, known: Mapping[str, dict[str, Any]], file: str) -> Iterator[Exception]:
    """Everything that is wrong with an entry; a legal value stands in for each wrong one that was found."""
    if not isinstance(entry, dict):
        yield TypeError(f"{name} is not a mapping")
        return
    yield from unknown_keys(entry)
    if "memory" not in entry:
        yield EntryError("memory", "memory is missing")
    trial = {"memory": devices()[_NEAREST]["memory"], **{key: entry[key] for key in entry if key in KEYS}}
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


def _stand_in(trial: dict[str, Any], key: str) -> bool:
    """Give a wrong key of an entry a legal value; whether that is possible."""
    legal = devices()[_NEAREST]
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
                raise EntryError("like", f"like: unknown device {like!r}; known: {', '.join(bases)}")
            entry = scaled_entry(entry, base, bases[base])
        elif not isinstance(entry, dict):
            raise TypeError(f"{name} is not a mapping")
        found[name] = entry
    return found
