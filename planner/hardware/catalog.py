"""Device catalog: which entry of devices.yaml and of the user's files a strategy means.

Three places, the first that has a name wins: a calibration or `--hardware FILE`, the user's own file
(`~/.config/switchyard/hardware.yaml`), devices.yaml. A file adds devices, and replaces the curves of a
shipped one, whose memory and peaks stay those of devices.yaml (or of the strategy).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.hardware.device import CPU, Curve, Device, MeasuredCollective, make_device, peaks_of
from planner.hardware.hardware_file import NEAREST, devices, read_calibration
from planner.hardware.scaling import bandwidth_of, scaled_entry
from planner.units import parse_quantity

__all__ = ["CPU", "Curve", "Device", "MeasuredCollective"]

CALIBRATION_NAME = "hardware.yaml"  # under output.folder, where `python -m benchmarks.calibrate` writes
UNNAMED = "unnamed"  # a device given by its figures that matches no entry


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
    return name or UNNAMED, _entry_of_figures(gpu, devices()[NEAREST], NEAREST)


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
