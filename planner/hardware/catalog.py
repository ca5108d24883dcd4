"""Device catalog: rates of each device from devices.yaml, or from a calibration that replaces them."""

import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

from planner.problems import Problem, StrategyError
from planner.units import Dimension, QuantityError, parse_quantity
from planner.yaml12 import Document
from planner.yaml12 import Mapping as DocumentMapping

CPU = "cpu"
CALIBRATION_NAME = "hardware.yaml"  # under output.folder, where `python -m benchmarks.calibrate` writes
_SHIPPED = Path(__file__).parent / "devices.yaml"
UNNAMED = "unnamed"  # a device given by its memory and peaks that matches no entry
# The entry whose curves such a device gets.
_LIKE = "GPU-400TFLOPS-64GB"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A rate by size: linear in the logarithm of the size between its points, constant beyond them."""

    points: tuple[tuple[float, float], ...]

    def at(self, size: float) -> float:
        points = self.points
        index = bisect_left(points, (size,))
        if index == 0:
            return points[0][1]
        if index == len(points):
            return points[-1][1]
        (x0, y0), (x1, y1) = points[index - 1], points[index]
        return y0 + (y1 - y0) * log(size / x0) / log(x1 / x0)


@dataclass(frozen=True, kw_only=True)
class MeasuredCollective:
    """Seconds of one collective of gloo by the bytes of a rank, on a host with `ranks_on_host` ranks."""

    kind: str
    ranks_on_host: int
    group: int
    points: tuple[tuple[float, float], ...]

    def seconds(self, num_bytes: float) -> float:
        """Linear between the points and beyond the last; below the first it is the first's."""
        points = self.points
        index = min(max(bisect_left(points, (num_bytes,)), 1), len(points) - 1)
        (x0, y0), (x1, y1) = points[index - 1], points[index]
        return max(y0 + (y1 - y0) * (max(num_bytes, points[0][0]) - x0) / (x1 - x0), points[0][1])


@dataclass(frozen=True, kw_only=True)
class Device:
    """Rates of a device; devices.yaml explains each number.

    `peak` FLOP/s, `gemm`, `grouped` and `attention` shares of it by precision, `elementwise` bytes/s, times
    in seconds.
    `fresh_bytes_per_s`: extra cost of touching memory for the first time; None: not known.
    `is_calibrated`: measured on this machine, not shipped.
    """

    name: str
    is_cpu: bool
    is_calibrated: bool
    peak: Mapping[str, float]
    gemm: Mapping[str, Curve]
    grouped: Mapping[str, Curve]
    attention: Mapping[str, Curve]
    tile_rows: int
    elementwise: Curve
    fresh_bytes_per_s: float | None
    operation_s: float
    intra_latency_s: float
    inter_latency_s: float
    message_s: float
    link_share: float
    cores: int | None
    collectives: tuple[MeasuredCollective, ...]
    sources: tuple[str, ...]
    # Measured bytes/s of a rank, one way; they replace the strategy's links.
    intra_bytes_per_s: float | None = None
    inter_bytes_per_s: float | None = None


@lru_cache(maxsize=1)
def devices() -> dict[str, dict[str, Any]]:
    """name -> entry of devices.yaml as written, quantities as text with their units."""
    return _entries(_SHIPPED.read_text(encoding="utf-8"), "devices.yaml")


def calibration_path(output_folder: str | os.PathLike[str]) -> Path | None:
    """The calibration that belongs to a folder of runs, if there is one."""
    path = Path(output_folder) / CALIBRATION_NAME
    return path if path.is_file() else None


def device_of(gpu: Any, calibration: Path | None = None) -> Device:
    """The device of a strategy's `cluster.gpu`: the calibration's entry, else the shipped one.

    A device without a name is the entry with its memory and peaks, or one with the curves of another.

    Raises:
        StrategyError: if the calibration cannot be read.
    """
    name, shipped = entry_of(gpu)
    if calibration is not None:
        measured = read_calibration(calibration)
        if name in measured and (name != UNNAMED or is_entry(gpu, measured[name])):
            return _device(name, measured[name], str(calibration))
    return _device(name, shipped, None)


def entry_of(gpu: Any) -> tuple[str, dict[str, Any]]:
    """The shipped entry of a strategy's `cluster.gpu`, under the name that a calibration gives it."""
    entries = devices()
    name = getattr(gpu, "name", None) or next((n for n, e in entries.items() if is_entry(gpu, e)), None)
    return (UNNAMED, _entry_like(gpu)) if name is None else (name, entries[name])


def _entry_like(gpu: Any) -> dict[str, Any]:
    """An entry with the curves of another device, for one that is written by its memory and peaks."""
    peak = {key: f"{value} FLOPS" for key, value in gpu.peak.model_dump().items() if value is not None}
    entry = {**devices()[_LIKE], "memory": f"{gpu.memory} B", "peak": peak}
    entry["source"] = "the strategy's own memory and peaks"
    entry["sources"] = dict.fromkeys(entry["sources"], f"assumption, as for {_LIKE}")
    return entry


def device_named(name: str) -> Device:
    """A shipped entry."""
    return _device(name, devices()[name], None)


def is_entry(gpu: Any, entry: Mapping[str, Any]) -> bool:
    """Whether an entry has the memory and the peaks of a strategy's `cluster.gpu`."""
    peaks = {key: float(parse_quantity(text, "FLOP/s")) for key, text in entry["peak"].items()}
    written = {key: value for key, value in gpu.peak.model_dump().items() if value is not None}
    return bool(parse_quantity(entry["memory"], "bytes") == gpu.memory and peaks == written)


def read_calibration(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a hardware file as written.

    Raises:
        StrategyError: if it is not one.
    """
    try:
        entries = _entries(path.read_text(encoding="utf-8"), str(path))
        for name, entry in entries.items():
            _device(name, entry, str(path))
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        problem = Problem(
            code="SW141",
            file=str(path),
            found=_why_unread(error),
            expected="entries as in planner/hardware/devices.yaml",
            fix="measure again with python -m benchmarks.calibrate, or remove the file",
        )
        raise StrategyError([problem]) from None
    return entries


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


def _entries(text: str, file: str) -> dict[str, dict[str, Any]]:
    document = Document(text, file)
    if document.problems:
        first = document.problems[0]
        raise ValueError(f"line {first.line}: {first.found}" if first.line else first.found)
    if document.root is None or not isinstance(document.root.value, DocumentMapping):
        raise ValueError("no entries by name")
    return {name: entry.plain() for name, entry in document.root.value.entries.items()}


def _device(name: str, entry: Mapping[str, Any], calibration: str | None) -> Device:
    latency = entry["latency"]
    sources = [f"{key}: {text}" for key, text in entry["sources"].items()]
    grouped = entry.get("grouped") or {}
    links = entry.get("links") or {}
    collectives = entry.get("collectives") or ()
    return Device(
        name=name,
        is_cpu=name == CPU,
        is_calibrated=calibration is not None,
        peak={key: _number(text, "FLOP/s") for key, text in entry["peak"].items()},
        gemm={key: _curve(points) for key, points in entry["gemm"].items()},
        grouped={key: _curve(points) for key, points in grouped.items()},
        attention={key: _curve(points) for key, points in (entry.get("attention") or {}).items()},
        tile_rows=int(entry.get("tile_rows") or 1),
        elementwise=_curve(entry["elementwise"], "bytes", "bytes/s"),
        fresh_bytes_per_s=_number(entry["fresh"], "bytes/s") if "fresh" in entry else None,
        operation_s=_number(entry["operation"], "seconds"),
        intra_latency_s=_number(latency["intra_host"], "seconds"),
        inter_latency_s=_number(latency["inter_host"], "seconds"),
        message_s=_number(entry["message"], "seconds"),
        link_share=float(entry["link_share"]),
        cores=entry.get("cores"),
        collectives=tuple(
            MeasuredCollective(
                kind=item["kind"],
                ranks_on_host=item["ranks_on_host"],
                group=item["group"],
                points=_curve(item["points"], "bytes", "seconds").points,
            )
            for item in collectives
        ),
        sources=(f"{name}: {entry['source']}", *sources) + ((f"from {calibration}",) if calibration else ()),
        intra_bytes_per_s=_number(links["intra_host"], "bytes/s") if "intra_host" in links else None,
        inter_bytes_per_s=_number(links["inter_host"], "bytes/s") if "inter_host" in links else None,
    )


def _curve(points: Any, x: Dimension = "count", y: Dimension = "count") -> Curve:
    read = tuple((_number(size, x), _number(rate, y)) for size, rate in points)
    if len(read) < 2 or any(a[0] >= b[0] for a, b in pairwise(read)):
        raise ValueError("a curve needs at least two points in ascending order of size")
    return Curve(points=read)


def _number(value: Any, dimension: Dimension) -> float:
    try:
        number = float(parse_quantity(value, dimension) if isinstance(value, str) else value)
    except QuantityError as error:
        raise ValueError(str(error)) from None
    if not number > 0:
        raise ValueError(f"{value!r} is not above 0")
    return number
